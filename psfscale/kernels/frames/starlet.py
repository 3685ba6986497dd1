"""The starlet: isotropic undecimated wavelets of the B3 spline, on a periodic fine image.

Source: Starck, Fadili & Murtagh 2007, IEEE Trans. Image Process. 16, 297 ("à trous",
kernel [1, 4, 6, 4, 1]/16, holes of 2^j). Departure: the image is periodic, so that the
transform is a product with real filters in Fourier space, self-adjoint band by band, and the
norms of the bands are exact.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from psfscale.kernels.frames.wavelet import FilterBank, scaled_frequencies

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from psfscale.kernels.spectral import FrequencyGrid

__all__ = ["starlet"]


def _smoothing(omega: Float[Tensor, " frequency"]) -> Float[Tensor, " frequency"]:
    """Transfer function of [1, 4, 6, 4, 1]/16 at angular frequency `omega` per sample."""
    return torch.cos(omega / 2) ** 4


def starlet(grid: FrequencyGrid, *, n_scales: int) -> FilterBank:
    """The starlet of `n_scales` wavelet bands, finest first, and the coarse band.

    The filters are real and sum to 1: so do the bands, to the image.

    Raises
    ------
    InputError
        `n_scales` is not positive.
    """
    omega = scaled_frequencies(grid, n_scales)
    smooth = [torch.ones(len(grid), dtype=torch.float64)]
    for scale in range(n_scales):
        step = 2**scale
        smooth.append(smooth[-1] * _smoothing(step * omega[0]) * _smoothing(step * omega[1]))
    filters = torch.stack([*(a - b for a, b in pairwise(smooth)), smooth[-1]])
    return FilterBank(grid=grid, filters=filters, synthesis=torch.ones_like(filters))
