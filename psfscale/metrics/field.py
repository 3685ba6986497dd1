"""What the metrics ask of a PSF model, and how they look at it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from psfscale.arrays import STACK_SAMPLES, FieldPoints, PixelGrid

if TYPE_CHECKING:
    import xarray as xr
    from jaxtyping import Float

OVERSAMPLING = STACK_SAMPLES
"""Samples per CCD pixel at which models are drawn to be measured, shifted and stacked."""


class PsfField(Protocol):
    """The one thing the metrics need of a model; every ``PsfModel`` offers it."""

    def predict(self, at: FieldPoints, grid: PixelGrid) -> Float[np.ndarray, "object y x"]:
        """PSFs at positions, each of unit sum, centred on index ``n // 2`` of the grid."""
        ...


def drawn(model: PsfField, at: FieldPoints, grid: PixelGrid) -> Float[np.ndarray, "object y x"]:
    """The model's PSFs as a float64 array on the host."""
    if not len(at):
        return np.zeros((0, *grid.shape))
    return np.asarray(model.predict(at, grid), dtype=np.float64)


def lattice(*, columns: int, rows: int, grid: int) -> FieldPoints:
    """``grid × grid`` positions over a CCD, at the centres of as many equal rectangles."""
    step = (np.arange(grid) + 0.5) / grid
    y, x = np.meshgrid(step * rows - 0.5, step * columns - 0.5, indexing="ij")
    return FieldPoints(x=x.ravel(), y=y.ravel())


def sky_jacobian(objects: xr.Dataset, *, pixel_scale: float) -> Float[np.ndarray, "object 2 2"]:
    """Return [[du/dx, du/dy], [dv/dx, dv/dy]] [arcsec / pixel], u towards west and v north.

    Where no WCS is known pixels are taken to be squares of the instrument's scale along u and v:
    sizes are then right, and the orientation is not known.

    Parameters
    ----------
    objects : a group of a survey store on one CCD; ``jacobian`` (object, sky, pixel), NaN without
        a WCS, is lacking in stores of schema version 1
    pixel_scale : of the instrument [arcsec]
    """
    square = pixel_scale * np.eye(2)
    if "jacobian" not in objects:
        return np.broadcast_to(square, (len(objects["x"]), 2, 2))
    stored = objects["jacobian"].values.astype(np.float64)
    known = np.isfinite(stored).all(axis=(1, 2), keepdims=True)
    return np.asarray(np.where(known, stored, square))
