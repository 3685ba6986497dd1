"""The gate a fitted PSF passes before it counts as good."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psfscale.metrics.field import PsfField


def check_psf(
    model: PsfField,
    *,
    columns: int,
    rows: int,
    grid: int,
    pixel_scale: float,
    fwhm_range: tuple[float, float],
) -> None:
    """Pass silently if the model's PSFs are sound on a grid over the CCD.

    Parameters
    ----------
    model : fitted
    columns, rows : of the CCD [pixel]
    grid : points along each side
    pixel_scale : [arcsec]
    fwhm_range : smallest and largest believable FWHM [arcsec]

    Raises
    ------
    PsfCheckError
        A PSF is not finite, has no positive central peak, is largely negative, or has a
        size out of range; the message names the check, the place and the value.
    """
    raise NotImplementedError
