"""How well a PSF field agrees with stars that it was not fitted to, as one number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from psfscale.arrays import PixelGrid
from psfscale.metrics.field import OVERSAMPLING, PsfField, drawn
from psfscale.metrics.refit import MARGIN, refit

if TYPE_CHECKING:
    from jaxtyping import Float

    from psfscale.arrays import StarBatch

_FREE = 3
"""Flux and centroid."""


def star_chi2(model: PsfField, stars: StarBatch) -> Float[np.ndarray, " star"]:
    """Reduced χ² of each star under the model, flux and centroid free; NaN without pixels."""
    height, width = ((n + 2 * MARGIN) * OVERSAMPLING for n in stars.stamp_shape)
    psf = drawn(model, stars.points, PixelGrid(shape=(height, width), oversampling=OVERSAMPLING))
    image, weight = stars.image.astype(np.float64), stars.weight.astype(np.float64)
    found = refit(image, weight, psf, oversampling=OVERSAMPLING)
    square = np.where(weight > 0, weight * (image - found.model) ** 2, 0.0).sum(axis=(1, 2))
    free = (weight > 0).sum(axis=(1, 2)) - _FREE
    return np.where(free > 0, square / np.maximum(free, 1), np.nan)


def agreement(model: PsfField, stars: StarBatch) -> float:
    """Geometric mean of the stars' reduced χ²; NaN where no star can be measured.

    A star that no field explains (a blend, a hit) multiplies the score of every field by the
    same number, so that it does not decide between them.
    """
    chi2 = star_chi2(model, stars)
    good = np.isfinite(chi2) & (chi2 > 0)
    return float(np.exp(np.log(chi2[good]).mean())) if good.any() else np.nan
