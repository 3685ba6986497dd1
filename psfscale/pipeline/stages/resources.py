"""What stages want of workers beside a thread: a GPU, or whatever a cluster's workers declare.

A stage that can use a GPU runs on workers that declare ``GPU``, and on the processor of any
worker where none does. What a run file demands is refused where the cluster has none of it, and
not waited for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from psfscale.errors import ConfigError, RunError

if TYPE_CHECKING:
    from psfscale.models.fitted import FittedModel
    from psfscale.pipeline.stages.context import RunContext

GPU = "GPU"
"""The resource of a worker that has an accelerator to itself, by Dask's custom."""
FIT = "fit"
"""In a run file, every stage that fits a model."""

Amounts = Mapping[str, float]


def wished(model: FittedModel) -> dict[str, float]:
    """What the fit of a model is better off with."""
    return {} if getattr(model.settings, "device", "cpu") == "cpu" else {GPU: 1.0}


def demanded(context: RunContext, stages: Mapping[str, Amounts]) -> dict[str, Amounts]:
    """What the run file insists on, by stage: its `resources`, and models on a CUDA device.

    Parameters
    ----------
    stages : the stages of the run, and what each of them wishes

    Raises
    ------
    ConfigError
        The run file names a stage that the run does not have.
    """
    found: dict[str, Amounts] = {}
    fits = [name for name in stages if name.split("_")[0] == FIT]
    for name, amounts in context.config.resources.items():
        meant = fits if name == FIT else [name]
        if not set(meant) <= set(stages):
            msg = f"resources names the stage {name!r}; the run has {list(stages)}"
            raise ConfigError(msg)
        found |= dict.fromkeys(meant, amounts)
    for model in context.models:
        if str(getattr(model.settings, "device", "")).startswith("cuda"):
            stage = fits[0] if len(fits) == 1 else f"{FIT}_{model.name}"
            found[stage] = {GPU: 1.0, **found.get(stage, {})}
    return found


def lacking(wanted: Amounts, available: Amounts) -> dict[str, float]:
    """Of what is wanted, that of which no worker has enough."""
    return {name: n for name, n in wanted.items() if available.get(name, 0.0) < n}


def require(demands: Mapping[str, Amounts], available: Amounts, *, where: str, advice: str) -> None:
    """That what a run demands is there.

    Parameters
    ----------
    demands : by stage
    available : the most that one worker has, by resource
    where, advice : for the message

    Raises
    ------
    RunError
        It is not.
    """
    for stage, wanted in demands.items():
        missing = lacking(wanted, available)
        if missing:
            what = " and ".join(f"{name}: {n:g}" for name, n in missing.items())
            msg = (
                f"the run demands {what} for the stage {stage}, and {where}: {advice}, or take the "
                "demand out of the run file (resources, or the model's device)"
            )
            raise RunError(msg)
