"""What the metrics ask of a PSF model, and how they look at it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from psfscale.arrays import FieldPoints, PixelGrid

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

OVERSAMPLING = 3
"""Samples per CCD pixel at which models are drawn to be measured and shifted."""


class PsfField(Protocol):
    """The one thing the metrics need of a model; every ``PsfModel`` offers it."""

    def predict(self, at: FieldPoints, grid: PixelGrid) -> Float[torch.Tensor, "object y x"]:
        """PSFs at positions, each of unit sum, centred on index ``n // 2`` of the grid."""
        ...


def drawn(model: PsfField, at: FieldPoints, grid: PixelGrid) -> Float[np.ndarray, "object y x"]:
    """The model's PSFs as a float64 array on the host."""
    if not len(at):
        return np.zeros((0, *grid.shape))
    return np.asarray(model.predict(at, grid).detach().cpu().numpy(), dtype=np.float64)


def lattice(*, columns: int, rows: int, grid: int) -> FieldPoints:
    """``grid × grid`` positions over a CCD, at the centres of as many equal rectangles."""
    step = (np.arange(grid) + 0.5) / grid
    y, x = np.meshgrid(step * rows - 0.5, step * columns - 0.5, indexing="ij")
    return FieldPoints(x=x.ravel(), y=y.ravel())
