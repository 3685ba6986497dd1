"""The gate a fitted PSF passes before it counts as good."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from psfscale.arrays import FieldPoints, PixelGrid, centre_index
from psfscale.errors import PsfCheckError
from psfscale.metrics.field import OVERSAMPLING, drawn, lattice
from psfscale.metrics.moments import adaptive_moments

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from psfscale.metrics.field import PsfField

    Psfs = Float[np.ndarray, "point y x"]

_NEGATIVE_LIMIT = 0.2
"""Largest allowed sum of negative pixels over the sum of positive ones."""
_STAMP_IN_FWHM = 4
"""Side of the stamps drawn for the check, in units of the largest believable FWHM."""


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
    fwhm_range : smallest and largest believable FWHM [arcsec], of the adaptive moments of
        the effective PSF (pixel response included)

    Raises
    ------
    PsfCheckError
        A PSF is not finite, has no positive peak at its centre, is largely negative, has no
        measurable moments or a size out of range; the message names the check, the first
        place where it failed, the value found there, and at how many points.
    """
    at = lattice(columns=columns, rows=rows, grid=grid)
    smallest, largest = fwhm_range
    half = int(np.ceil(_STAMP_IN_FWHM / 2 * largest / pixel_scale))
    side = (2 * half + 1) * OVERSAMPLING
    psf = drawn(model, at, PixelGrid(shape=(side, side), oversampling=OVERSAMPLING))
    _refuse(~np.isfinite(psf).all(axis=(1, 2)), at, "has pixels that are not finite")
    _check_flux(psf, at, reach=largest / pixel_scale * OVERSAMPLING)
    moments = adaptive_moments(psf, pixel_scale=pixel_scale / OVERSAMPLING)
    _refuse(~moments.ok, at, "has no measurable adaptive moments")
    fwhm = moments.fwhm
    _refuse(
        (fwhm < smallest) | (fwhm > largest),
        at,
        "has FWHM {:.3f} arcsec, expected {:.3f} to {:.3f} arcsec",
        fwhm,
        *fwhm_range,
    )


def _check_flux(psf: Psfs, at: FieldPoints, *, reach: float) -> None:
    """Positive flux, peak within half of `reach` [PSF pixel] of the centre, little negative."""
    total = psf.sum(axis=(1, 2))
    _refuse(total <= 0, at, "has flux {:.3g}, expected a positive flux", total)
    y, x = np.unravel_index(psf.reshape(len(psf), -1).argmax(axis=1), psf.shape[1:])
    off = np.hypot(y - centre_index(psf.shape[1]), x - centre_index(psf.shape[2])) / OVERSAMPLING
    _refuse(
        off > reach / 2 / OVERSAMPLING,
        at,
        "has its peak {:.1f} pixels from its centre",
        off,
    )
    negative = -np.minimum(psf, 0).sum(axis=(1, 2)) / np.maximum(psf, 0).sum(axis=(1, 2))
    _refuse(
        negative > _NEGATIVE_LIMIT,
        at,
        "has {:.2f} of its positive flux in negative pixels, expected at most {:.2f}",
        negative,
        _NEGATIVE_LIMIT,
    )


def _refuse(
    bad: Bool[np.ndarray, " point"],
    at: FieldPoints,
    says: str,
    values: Float[np.ndarray, " point"] | None = None,
    *limits: float,
) -> None:
    if not bad.any():
        return
    first = int(np.flatnonzero(bad)[0])
    found = () if values is None else (float(values[first]),)
    msg = (
        f"the PSF at x={at.x[first]:.1f}, y={at.y[first]:.1f} pixel {says.format(*found, *limits)} "
        f"({int(bad.sum())} of {len(bad)} grid points fail); inspect the stars of this CCD, or "
        "the instrument's FWHM range where the seeing was unusual"
    )
    raise PsfCheckError(msg)
