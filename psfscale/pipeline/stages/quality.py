"""Judgement of the fit of a CCD against the limits of the run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from psfscale.arrays import ObjectFlag, Role, StarBatch
from psfscale.errors import PsfCheckError
from psfscale.pipeline.stages.ccd import group_of
from psfscale.quality import (
    Doubt,
    StampMeasures,
    fit_doubts,
    outside_doubt,
    position_doubt,
)
from psfscale.store.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import xarray as xr

    from psfscale.config import Quality
    from psfscale.metrics import PsfField
    from psfscale.metrics.against_mean import MeanStarComparison
    from psfscale.models.fitted import FittedModel
    from psfscale.pipeline.stages.context import RunContext

VERDICT = "verdict"
"""Attribute of what a stage returns of a CCD: its `Verdict`."""
OF_FIELD = ("mean_star_excess", "clipped_fraction", "chi2_maximum")
"""Checks that a simpler field may pass; the others are of the stamps alone."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the quality checks of a CCD found.

    Attributes
    ----------
    doubts : checks that tripped
    few : held-out stars against the mean star, where they are too few to judge the CCD by itself
    """

    doubts: tuple[Doubt, ...] = ()
    few: MeanStarComparison | None = None

    @property
    def simpler_may_help(self) -> bool:
        """Whether a check tripped that a simpler field may pass."""
        return any(doubt.check in OF_FIELD for doubt in self.doubts)

    def after(self, first: Verdict, what: str) -> Verdict:
        """Return this verdict on a field `what` that stands in for one judged before."""
        told = tuple(
            replace(doubt, message=f"fitted anew as {what}, since {doubt.message}")
            for doubt in first.doubts
            if doubt.check in OF_FIELD
        )
        return replace(self, doubts=(*told, *self.doubts))


def stars_of(stars: xr.Dataset, chosen: np.ndarray, *, colour: bool = True) -> StarBatch:
    """Return some stars of a CCD's group ``stars``, with spectra where it has them."""
    names = ("image", "weight", "x", "y", *(("sed",) if colour and "sed" in stars else ()))
    return StarBatch(
        **{name: stars[name].values[chosen] for name in names},
        wavelength=stars["wavelength"].values if "sed" in names else None,
    )


def judge(
    ccd: xr.Dataset,
    field: PsfField,
    results: Mapping[str, np.ndarray],
    context: RunContext,
    model: FittedModel,
) -> Verdict:
    """Judge the field of a CCD and the stars it was fitted to.

    Parameters
    ----------
    ccd : inputs of the fit on the CCD
    field : as it is seen on the CCD
    results : ``flags`` and ``chi2`` of the fit, (star,)
    """
    from psfscale.metrics.against_mean import compare_with_mean_star

    limits, stars = context.config.quality, group_of(ccd, "stars")
    role, flags = stars["role"].values, results["flags"]
    free = (flags & int(ObjectFlag.LEFT_OUT)) == 0
    used = (flags & int(ObjectFlag.OUTLIER)) == 0
    fitted = np.flatnonzero((role == Role.FIT) & free)
    if not fitted.size:
        return Verdict()
    measures = StampMeasures.of(stars["image"].values[fitted], stars["weight"].values[fitted])
    doubts = fit_doubts(
        measures,
        used=used[fitted],
        chi2=results["chi2"][fitted],
        limits=limits,
        upsampling=getattr(model.settings, "n_aliases", 1),
    )
    position = position_doubt(
        measures, stars["x"].values[fitted], stars["y"].values[fitted], limits
    )
    found = [position, _outside(ccd, limits)]
    few = None
    if limits.mean_star_excess is not None:
        seen = (stars["weight"].values > 0).any(axis=(1, 2))
        held_out = np.flatnonzero((role == Role.RESERVED) & free & seen)
        compared = compare_with_mean_star(
            field, stars_of(stars, fitted[used[fitted]]), stars_of(stars, held_out)
        )
        found.append(mean_star_doubt(compared, limits))
        few = compared if compared.n < limits.fewest_stars else None
    return Verdict(doubts=(*doubts, *(doubt for doubt in found if doubt)), few=few)


def _outside(ccd: xr.Dataset, limits: Quality) -> Doubt | None:
    refused = ccd["exposures/n_refused"].values
    if len(refused) <= Refusal.OUTSIDE_CCD:
        return None
    taken = int(ccd["exposures/n_stars"]) + int(ccd["exposures/n_galaxies"])
    return outside_doubt(int(refused[Refusal.OUTSIDE_CCD]), taken, limits)


def mean_star_doubt(
    compared: MeanStarComparison, limits: Quality, *, where: str = ""
) -> Doubt | None:
    """Return the doubt about a field that held-out stars find worse than the mean star."""
    limit = limits.mean_star_excess
    if limit is None or compared.n < limits.fewest_stars or compared.excess <= limit:
        return None
    return Doubt(
        check="mean_star_excess",
        message=f"on {compared.n} reserved stars{where} the model's pixel error is "
        f"{compared.field_error:.3f}, the mean star's {compared.mean_error:.3f} (limit "
        f"{1 + limit:g} times that): is the field too flexible, or are there galaxies among the "
        "stars?",
    )


def pooled_doubt(verdicts: Iterable[Verdict], limits: Quality) -> Doubt | None:
    """Return the doubt about the CCDs of an exposure whose reserved stars are few, taken together.

    A CCD of it has the doubt where its own verdict has `few`.
    """
    from psfscale.metrics.against_mean import MeanStarComparison

    parts = [verdict.few for verdict in verdicts if verdict.few is not None]
    if not parts:
        return None
    where = f" of {len(parts)} CCDs of the exposure"
    return mean_star_doubt(MeanStarComparison.joined(parts), limits, where=where)


def release(verdict: Verdict, context: RunContext) -> Verdict:
    """Return a verdict, or fail where the run has doubts fail.

    Raises
    ------
    PsfCheckError
        A check tripped, and ``quality.on_doubt`` is ``fail``.
    """
    if verdict.doubts and context.config.quality.on_doubt == "fail":
        raise PsfCheckError("; ".join(doubt.message for doubt in verdict.doubts))
    return verdict
