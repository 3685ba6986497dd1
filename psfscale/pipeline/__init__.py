"""Run a survey: plan what is missing, run it on a cluster or in this process, resume.

Import is light: Dask, torch and the rest are loaded by the call that needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psfscale.pipeline.drive.blocks import (
        BlocksSummary,
        is_index,
        plan_blocks,
        run_blocks,
        run_stores,
        write_index,
    )
    from psfscale.pipeline.drive.drivers import run_survey, run_together
    from psfscale.pipeline.drive.launch import RunSummary, run
    from psfscale.pipeline.drive.plan import Plan, plan_run
    from psfscale.pipeline.events import Event, Observer
    from psfscale.pipeline.integrity.damage import Verification
    from psfscale.pipeline.integrity.run import verify
    from psfscale.pipeline.results.products import (
        MetricsSummary,
        aggregate_run,
        metrics_of_stars,
        report_run,
        write_tables,
    )
    from psfscale.pipeline.results.run import Run, open_run
    from psfscale.pipeline.runs.migrate import migrate
    from psfscale.pipeline.runs.resolved import resolved_config
    from psfscale.pipeline.state.block_status import BlocksStatus, status_of
    from psfscale.pipeline.state.run_status import RunStatus, status
    from psfscale.pipeline.workers.profiles import ClusterProfile, load_profile

__all__ = [
    "BlocksStatus",
    "BlocksSummary",
    "ClusterProfile",
    "Event",
    "MetricsSummary",
    "Observer",
    "Plan",
    "Run",
    "RunStatus",
    "RunSummary",
    "Verification",
    "aggregate_run",
    "is_index",
    "load_profile",
    "metrics_of_stars",
    "migrate",
    "open_run",
    "plan_blocks",
    "plan_run",
    "report_run",
    "resolved_config",
    "run",
    "run_blocks",
    "run_stores",
    "run_survey",
    "run_together",
    "status",
    "status_of",
    "verify",
    "verify_stores",
    "verify_survey",
    "write_index",
    "write_tables",
]

_HOMES = {
    "drive.blocks": (
        "BlocksSummary",
        "is_index",
        "plan_blocks",
        "run_blocks",
        "run_stores",
        "write_index",
    ),
    "results.run": ("Run", "open_run"),
    "events": ("Event", "Observer"),
    "drive.plan": ("Plan", "plan_run"),
    "results.products": (
        "MetricsSummary",
        "aggregate_run",
        "metrics_of_stars",
        "report_run",
        "write_tables",
    ),
    "workers.profiles": ("ClusterProfile", "load_profile"),
    "drive.launch": ("RunSummary", "run"),
    "state.run_status": ("RunStatus", "status"),
    "state.block_status": ("BlocksStatus", "status_of"),
    "drive.drivers": ("run_survey", "run_together"),
    "integrity.damage": ("Verification",),
    "integrity.run": ("verify",),
    "integrity.survey": ("verify_stores", "verify_survey"),
    "runs.resolved": ("resolved_config",),
    "runs.migrate": ("migrate",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"psfscale.pipeline.{module}"), name)
    msg = f"module 'psfscale.pipeline' has no attribute {name!r}"
    raise AttributeError(msg)
