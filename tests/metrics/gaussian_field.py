"""Analytic PSF fields and stars drawn from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from psfscale.arrays import FieldPoints, PixelGrid, Role, centre_index


def gaussian(
    *, shape: tuple[int, int], sigma: float, e1: float, e2: float, y: float = 0.0, x: float = 0.0
) -> np.ndarray:
    """Point samples of a unit-flux elliptical Gaussian; R² = 2 sigma², distortion e1, e2.

    Its centroid lies (y, x) from the centre index; all lengths in the samples' own unit.
    """
    j, i = (np.arange(n) - centre_index(n) for n in shape)
    v, u = np.meshgrid(j - y, i - x, indexing="ij")
    cxx, cyy, cxy = sigma**2 * (1 + e1), sigma**2 * (1 - e1), sigma**2 * e2
    det = cxx * cyy - cxy**2
    quadratic = (cyy * u**2 - 2 * cxy * u * v + cxx * v**2) / det
    return np.exp(-quadratic / 2) / (2 * np.pi * np.sqrt(det))


@dataclass(frozen=True, kw_only=True)
class GaussianField:
    """An effective PSF whose ellipticity grows linearly with x; sizes in CCD pixels."""

    sigma: float = 1.8
    e1_slope: float = 0.0
    e2: float = 0.0
    amplitude: float = 1.0

    def shape_at(self, x: float) -> dict[str, float]:
        return {"sigma": self.sigma, "e1": self.e1_slope * x / 1000, "e2": self.e2}

    def predict(self, at: FieldPoints, grid: PixelGrid) -> np.ndarray:
        fine = grid.oversampling
        drawn = [
            gaussian(shape=grid.shape, **{**self.shape_at(x), "sigma": self.sigma * fine})
            for x in at.x
        ]
        return np.array(drawn) * self.amplitude


def star_set(
    field: GaussianField,
    *,
    n_stars: int,
    seed: int,
    flux: float = 2000.0,
    noise: float = 1.0,
    side: int = 25,
    capacity: int | None = None,
) -> xr.Dataset:
    """Stars of a field, every fifth reserved, at random sub-pixel shifts, padded with role 0."""
    rng = np.random.default_rng(seed)
    capacity = n_stars if capacity is None else capacity
    image = np.zeros((capacity, side, side), np.float32)
    weight = np.zeros_like(image)
    x, y = np.full((2, capacity), np.nan)
    shift = np.full((2, capacity), np.nan)
    role = np.zeros(capacity, np.uint8)
    for k in range(n_stars):
        x[k], y[k] = rng.uniform(0, 1000, 2)
        shift[:, k] = rng.uniform(-0.5, 0.5, 2)
        unit = gaussian(shape=(side, side), y=shift[0, k], x=shift[1, k], **field.shape_at(x[k]))
        image[k] = flux * unit + rng.normal(0, noise, (side, side))
        weight[k] = 1 / noise**2
        role[k] = Role.RESERVED if k % 5 == 0 else Role.FIT
    return xr.Dataset(
        {
            "image": (("star", "stamp_y", "stamp_x"), image),
            "weight": (("star", "stamp_y", "stamp_x"), weight),
            "x": ("star", x),
            "y": ("star", y),
            "role": ("star", role),
            "true_shift": (("axis", "star"), shift),
        }
    )
