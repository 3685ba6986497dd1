"""PSFs of a fitted field at any position, sampling and size, in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from psfscale.arrays import centre_index
from psfscale.kernels.centroid import windowed_centroid
from psfscale.kernels.spectral import complex_dtype

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from jaxtyping import Complex, Float
    from torch import Tensor

    from psfscale.arrays import PixelGrid
    from psfscale.kernels.spectral import FrequencyGrid

    PositionFunctions = Callable[
        [Float[np.ndarray, " object"], Float[np.ndarray, " object"]],
        Float[np.ndarray, "object function"],
    ]

__all__ = ["FieldDrawing"]


def _offsets(n: int, oversampling: int) -> Tensor:
    """Distances of pixel centres from the stamp's centre [CCD pixel]."""
    return (torch.arange(n, dtype=torch.float64) - centre_index(n)) / oversampling


@dataclass(frozen=True, kw_only=True, eq=False)
class FieldDrawing:
    """A fitted field, ready to be drawn.

    Attributes
    ----------
    grid : frequencies of the components
    coefficients : (component, frequency), images centred on pixel (0, 0)
    alpha : (component, function) float64
    positions : the functions of position
    width : σ of the window that defines the centroid [CCD pixel]
    """

    grid: FrequencyGrid
    coefficients: Complex[Tensor, "component frequency"]
    alpha: Float[Tensor, "component function"]
    positions: PositionFunctions
    width: float

    def draw(
        self,
        x: Float[np.ndarray, " object"],
        y: Float[np.ndarray, " object"],
        *,
        grid: PixelGrid,
        chunk_bytes: float,
    ) -> Float[Tensor, "object y x"]:
        """Centred PSFs of unit sum at positions [pixel]."""
        size = 16 * (2 * len(self.grid) + math.prod(grid.shape) + 9 * math.prod(self.grid.shape))
        step = max(1, int(chunk_bytes / size))
        out = self.coefficients.real.new_zeros((len(x), *grid.shape))
        for first in range(0, len(x), step):
            here = slice(first, first + step)
            functions = torch.from_numpy(self.positions(x[here], y[here]))
            weight = (functions @ self.alpha.T).to(out.dtype)
            out[here] = self._draw_chunk(weight, grid)
        return out

    def _draw_chunk(
        self, weight: Float[Tensor, "object component"], grid: PixelGrid
    ) -> Float[Tensor, "object y x"]:
        c = weight.to(self.coefficients.dtype) @ self.coefficients
        dy, dx = self._centroids(c)
        c = c * self.grid.phases(-dy, -dx)
        images = self._samples(c, grid)
        return images / images.sum((-2, -1), keepdim=True)

    def _centroids(self, c: Complex[Tensor, "object frequency"]) -> tuple[Tensor, Tensor]:
        """Windowed centroids of the PSFs from their nominal centre [CCD pixel]."""
        fine = max(self.grid.upsampling, 2)
        ny, nx = (n * fine for n in self.grid.shape)
        centre = [torch.tensor([n // 2 / fine], dtype=c.real.dtype) for n in (ny, nx)]
        images = self.grid.image(c * self.grid.phases(centre[0], centre[1]), (ny, nx))
        cy, cx = windowed_centroid(images, width=self.width * fine, n_iterations=10)
        return (cy - ny // 2) / fine, (cx - nx // 2) / fine

    def _samples(
        self, c: Complex[Tensor, "object frequency"], grid: PixelGrid
    ) -> Float[Tensor, "object y x"]:
        """The Fourier series at the grid's pixels; 0 beyond one period."""
        ky, kx = (torch.from_numpy(k) for k in (self.grid.ky, self.grid.kx))
        reach_y, reach_x = int(ky.max()), int(kx.max())
        plane = c.new_zeros((len(c), (2 * reach_y + 1) * (reach_x + 1)))
        scale = self.grid.multiplicity.to(c.real.dtype)
        plane[:, (ky + reach_y) * (reach_x + 1) + kx] = c * scale
        plane = plane.reshape(len(c), 2 * reach_y + 1, reach_x + 1)
        y, x = (_offsets(n, grid.oversampling) for n in grid.shape)
        along_y = self._waves(y, torch.arange(-reach_y, reach_y + 1), 0).to(c.dtype)
        along_x = self._waves(x, torch.arange(reach_x + 1), 1).to(c.dtype)
        return (along_y @ plane @ along_x.T).real

    def _waves(self, offset: Tensor, k: Tensor, axis: int) -> Tensor:
        period = self.grid.shape[axis]
        angle = 2 * math.pi * offset[:, None] * k[None, :] / period
        inside = (offset.abs() <= period / 2).to(angle.dtype)[:, None]
        wave = torch.polar(inside.expand_as(angle).contiguous(), angle)
        return wave.to(complex_dtype(angle.dtype))
