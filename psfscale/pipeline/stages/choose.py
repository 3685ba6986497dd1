"""Which of several fitted models stands for a CCD."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from psfscale.arrays import Role, UnitState
from psfscale.errors import FitError
from psfscale.pipeline.stages.ccd import group_of, model_of, without_left_out
from psfscale.pipeline.stages.fitting import RESULTS
from psfscale.pipeline.stages.quality import VERDICT, Verdict, stars_of
from psfscale.quality import Doubt
from psfscale.store.schema import MODEL_CODES

if TYPE_CHECKING:
    from psfscale.models.fitted import FittedModel
    from psfscale.pipeline.stages.context import RunContext

STATES = "states/"
"""Before the name of a stage: what became of the CCD in it."""


def choose_model(ccd: xr.Dataset, context: RunContext) -> xr.Dataset:
    """Choose among the models that could be fitted, by the rule of the run.

    Every one of them is scored on the reserved stars, where there are any.

    Raises
    ------
    FitError
        None was fitted.
    """
    states = {m.name: UnitState(int(ccd[f"{STATES}{fit_stage(m)}"])) for m in context.models}
    usable = [model for model in context.models if states[model.name].usable]
    sound = [model for model in usable if states[model.name] is UnitState.DONE]
    fitted = sound or usable  # a doubtful field stands for the CCD only where there is no other
    if not fitted:
        msg = "no model could be fitted to this CCD"
        raise FitError(msg)
    scores = {model.name: _score(ccd, context, model) for model in usable}
    chosen = _choice(fitted, scores, context)
    told = {
        f"stars/fit_{name}": ccd[f"models/{chosen.name}/fit_{name}"].variable for name in RESULTS
    }
    table = {
        f"ccds/score_{name}": ((), np.float32(scores.get(name, np.nan))) for name in MODEL_CODES
    }
    code = np.uint8(MODEL_CODES[chosen.name])
    arrays = {**told, **table, "ccds/model": ((), code)}
    doubtful = states[chosen.name] is UnitState.DOUBTFUL
    return xr.Dataset(arrays, attrs={VERDICT: _of_doubtful(chosen) if doubtful else Verdict()})


def _of_doubtful(chosen: FittedModel) -> Verdict:
    """The verdict on a CCD that has doubtful fields alone."""
    message = f"{chosen.name} stands for the CCD and is doubtful in stage {fit_stage(chosen)}"
    return Verdict(doubts=(Doubt(check="models", message=message),))


def fit_stage(model: FittedModel) -> str:
    """Name of the stage that fits one of several models."""
    return f"fit_{model.name}"


def _choice(
    fitted: list[FittedModel], scores: dict[str, float], context: RunContext
) -> FittedModel:
    """The first, or that of the lowest score; of equal ones the first."""
    known = [model for model in fitted if np.isfinite(scores[model.name])]
    if context.config.choice == "first" or not known:
        return fitted[0]
    return min(known, key=lambda model: scores[model.name])


def _score(ccd: xr.Dataset, context: RunContext, model: FittedModel) -> float:
    from psfscale.metrics.agreement import agreement

    flags = ccd[f"models/{model.name}/fit_flags"].values
    stars = without_left_out(group_of(ccd, "stars").assign(fit_flags=("star", flags)))
    seen = (stars["weight"].values > 0).any(axis=(1, 2))
    chosen = np.flatnonzero((stars["role"].values == Role.RESERVED) & seen)
    if not chosen.size:
        return np.nan
    return agreement(model_of(ccd, context, model), stars_of(stars, chosen))
