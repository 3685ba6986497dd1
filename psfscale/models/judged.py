"""What models of stars share around a fit: the phases that hold it, and the doubts it ends with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from psfscale.config import Quality
from psfscale.errors import FitError
from psfscale.models.star_selection import SuperResolution
from psfscale.quality import (
    StampMeasures,
    carried_upsampling,
    centroids,
    fit_doubts,
    stamp_doubts,
)

if TYPE_CHECKING:
    from psfscale.arrays import StarBatch
    from psfscale.models.base import FitReport

S = TypeVar("S", bound=SuperResolution)


def held_to_phases(settings: S, stars: StarBatch) -> S:
    """Return settings whose band limit is no finer than the stars' sub-pixel phases carry.

    Stars of one phase sample one image of the CCD's own pixels; what lies between them is not
    determined, and a finer fit returns a comb.
    """
    wanted = settings.n_aliases
    carried = carried_upsampling(*centroids(stars.image, stars.weight), wanted=wanted)
    return settings if carried >= wanted else settings.held_to(carried)


def judged(report: FitReport, stars: StarBatch, *, upsampling: int = 1) -> FitReport:
    """Return a report with the doubts that the stars and the fit give rise to.

    Parameters
    ----------
    upsampling : that the stars' sub-pixel phases have to carry, 1 where the model has optics
    """
    doubts = fit_doubts(
        StampMeasures.of(stars.image, stars.weight),
        used=report.used,
        chi2=report.chi2,
        limits=Quality(),
        upsampling=upsampling,
    )
    return replace(report, doubts=doubts)


def explained(error: FitError, stars: StarBatch, limits: Quality | None = None) -> FitError:
    """Return the error of a fit with what is doubtful about its stars, which may be its cause."""
    measures = StampMeasures.of(stars.image, stars.weight)
    doubts = stamp_doubts(measures, limits or Quality())
    return FitError("; ".join([str(error), *(doubt.message for doubt in doubts)]))
