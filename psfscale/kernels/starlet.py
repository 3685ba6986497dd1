"""The starlet: isotropic undecimated wavelets of the B3 spline, on a periodic fine image.

Source: Starck, Fadili & Murtagh 2007, IEEE Trans. Image Process. 16, 297 ("à trous",
kernel [1, 4, 6, 4, 1]/16, holes of 2^j). Departure: the image is periodic, so that the
transform is a product with real filters in Fourier space, self-adjoint band by band, and the
norms of the bands are exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Complex, Float
    from torch import Tensor

    from psfscale.kernels.spectral import FrequencyGrid

__all__ = ["Starlet"]


def _smoothing(omega: Float[Tensor, " frequency"]) -> Float[Tensor, " frequency"]:
    """Transfer function of [1, 4, 6, 4, 1]/16 at angular frequency `omega` per sample."""
    return torch.cos(omega / 2) ** 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Starlet:
    """Starlet bands of PSF images, from their coefficients.

    Attributes
    ----------
    grid : frequencies of the images
    n_scales : number of wavelet bands; the coarse band comes last, as one more
    """

    grid: FrequencyGrid
    n_scales: int

    @cached_property
    def filters(self) -> Float[Tensor, "band frequency"]:
        """Transfer functions of the bands, finest first, coarse last; they sum to 1."""
        fine = self.grid.fine_shape
        omega = [
            2 * math.pi * torch.from_numpy(k / n)
            for k, n in zip((self.grid.ky, self.grid.kx), fine, strict=True)
        ]
        smooth = [torch.ones(len(self.grid), dtype=torch.float64)]
        for scale in range(self.n_scales):
            step = 2**scale
            smooth.append(smooth[-1] * _smoothing(step * omega[0]) * _smoothing(step * omega[1]))
        bands = [a - b for a, b in pairwise(smooth)]
        return torch.stack([*bands, smooth[-1]])

    @cached_property
    def noise_norms(self) -> Float[Tensor, " band"]:
        """Standard deviation in each band of an image of white noise of unit variance.

        The noise is that of the grid's frequencies alone: a band limit lowers it.
        """
        power = (self.grid.multiplicity * self.filters**2).sum(-1)
        return torch.sqrt(power / math.prod(self.grid.fine_shape))

    def forward(self, x: Complex[Tensor, "*batch frequency"]) -> Float[Tensor, "*batch band y x"]:
        """The bands of the images; their sum over bands is the image."""
        return self.grid.image(x[..., None, :] * self._filters_like(x))

    def adjoint(self, y: Float[Tensor, "*batch band y x"]) -> Complex[Tensor, "*batch frequency"]:
        """Coefficients from bands."""
        c = self.grid.coefficients(y)
        return (c * self._filters_like(c)).sum(-2)

    def norm(self) -> float:
        """Exact: the largest Σ_band filter² over the grid's frequencies."""
        return math.sqrt(float((self.filters**2).sum(0).max()))

    def _filters_like(self, c: Tensor) -> Tensor:
        return self.filters.to(c.real.dtype).to(c.device)
