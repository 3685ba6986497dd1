"""Run a survey: plan what is missing, run it on a cluster or in this process, resume.

Import is light: Dask, torch and the rest are loaded by the call that needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psfscale.pipeline.blocks import (
        BlocksSummary,
        is_index,
        plan_blocks,
        run_blocks,
        run_stores,
        write_index,
    )
    from psfscale.pipeline.consume import Run, open_run
    from psfscale.pipeline.events import Event, Observer
    from psfscale.pipeline.launch import RunSummary, run
    from psfscale.pipeline.plan import Plan, plan_run
    from psfscale.pipeline.products import (
        MetricsSummary,
        aggregate_run,
        metrics_of_stars,
        report_run,
        write_tables,
    )
    from psfscale.pipeline.profiles import ClusterProfile, load_profile
    from psfscale.pipeline.state import RunStatus, status
    from psfscale.pipeline.state_blocks import BlocksStatus, status_of
    from psfscale.pipeline.together import run_survey, run_together
    from psfscale.pipeline.verification import Verification, verify

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
    "open_run",
    "plan_blocks",
    "plan_run",
    "report_run",
    "run",
    "run_blocks",
    "run_stores",
    "run_survey",
    "run_together",
    "status",
    "status_of",
    "verify",
    "write_index",
    "write_tables",
]

_HOMES = {
    "blocks": (
        "BlocksSummary",
        "is_index",
        "plan_blocks",
        "run_blocks",
        "run_stores",
        "write_index",
    ),
    "consume": ("Run", "open_run"),
    "events": ("Event", "Observer"),
    "plan": ("Plan", "plan_run"),
    "products": (
        "MetricsSummary",
        "aggregate_run",
        "metrics_of_stars",
        "report_run",
        "write_tables",
    ),
    "profiles": ("ClusterProfile", "load_profile"),
    "launch": ("RunSummary", "run"),
    "state": ("RunStatus", "status"),
    "state_blocks": ("BlocksStatus", "status_of"),
    "together": ("run_survey", "run_together"),
    "verification": ("Verification", "verify"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"psfscale.pipeline.{module}"), name)
    msg = f"module 'psfscale.pipeline' has no attribute {name!r}"
    raise AttributeError(msg)
