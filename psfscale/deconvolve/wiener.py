r"""The Wiener filter whose galaxy spectrum comes from the stack: the start of every solve.

``x̂_i = K̄_i ŷ_i / (|K_i|² + 1 / (a_i S))`` on a circular stamp.

======  =============================================================  ============
symbol  name                                                           unit
======  =============================================================  ============
K_i     transfer function of galaxy i's PSF                            1
S       mean power of the galaxies' transforms, in rings, falling      noise power
a_i     power of galaxy i against the mean                             1
======  =============================================================  ============
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from psfscale.kernels.convolution import Convolution

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

__all__ = ["wiener"]

BLOCK = 256
"""Galaxies transformed together."""

LEAST_POWER = 1e-3
"""Floor of S and a_i S [noise power a frequency]."""


def _rings(shape: tuple[int, int]) -> Int[Tensor, "fy fx"]:
    """Ring of each frequency of the half plane, one cycle a stamp wide."""
    ny, nx = shape
    y = torch.fft.fftfreq(ny, dtype=torch.float64) * ny
    x = torch.fft.rfftfreq(nx, dtype=torch.float64) * nx
    side = min(shape)
    radius = torch.sqrt((y[:, None] * side / ny) ** 2 + (x * side / nx) ** 2)
    return radius.round().long()


class _Mean:
    """Means over rings of the half plane, each frequency as often as in the whole plane."""

    def __init__(self, shape: tuple[int, int], like: Tensor) -> None:
        self.ring = _rings(shape).flatten().to(like.device)
        twice = torch.full((shape[0], shape[1] // 2 + 1), 2.0)
        twice[:, 0] = 1
        if shape[1] % 2 == 0:
            twice[:, -1] = 1
        self.times = twice.flatten().to(like)
        self.count = self._sum(torch.ones_like(self.times))

    def _sum(self, values: Tensor) -> Tensor:
        out = values.new_zeros((*values.shape[:-1], int(self.ring.max()) + 1))
        return out.index_add_(values.ndim - 1, self.ring, values * self.times)

    def __call__(self, values: Float[Tensor, "*batch fy fx"]) -> Float[Tensor, "*batch ring"]:
        return self._sum(values.flatten(-2)) / self.count


def wiener(
    image: Float[Tensor, "object y x"],
    *,
    psf: Float[Tensor, "psf ky kx"],
    weight: Float[Tensor, "object y x"] | None = None,
) -> Float[Tensor, "object y x"]:
    """Galaxies restored by the Wiener filter, from images over their noise.

    Masked pixels count as sky without light.

    Parameters
    ----------
    image : [noise σ]
    weight : in [0, 1], or None where all are 1
    """
    shape = (int(image.shape[1]), int(image.shape[2]))
    blur = Convolution(psf=psf, shape=shape)
    mean = _Mean(shape, image)
    sky = image if weight is None else image * weight
    n = len(image)
    blocks = [slice(i, min(i + BLOCK, n)) for i in range(0, n, BLOCK)]

    def mine(values: Tensor, block: slice) -> Tensor:
        return values[block] if len(values) > 1 else values

    power = torch.cat([mean(_transform(sky[b]).abs().square()) for b in blocks])
    gain = mean(blur.power)
    # What is left of each ring's mean power above the noise, freed of the PSF.
    signal = ((power - 1) * mean.count).sum(0) / (gain * mean.count).expand_as(power).sum(0)
    # Galaxies' spectra fall: a rise is noise, or a PSF that is wider than the true one.
    signal = signal.cummin(0).values.clamp(min=LEAST_POWER)
    expected = ((gain * signal).expand_as(power) * mean.count).sum(1)
    share = (((power - 1) * mean.count).sum(1) / expected).clamp(min=LEAST_POWER)
    ring = mean.ring.reshape(shape[0], shape[1] // 2 + 1)
    out = torch.empty_like(image)
    for b in blocks:
        prior = (share[b, None] * signal).clamp(min=LEAST_POWER)[:, ring]
        transfer, squared = mine(blur.transfer, b), mine(blur.power, b)
        spectra = _transform(sky[b]) * transfer.conj() / (squared + 1 / prior)
        out[b] = torch.fft.irfft2(spectra, s=shape) * math.sqrt(math.prod(shape))
    return out


def _transform(image: Tensor) -> Tensor:
    """Half plane such that white noise of unit variance has unit power."""
    spectra: Tensor = torch.fft.rfft2(image)
    return spectra / math.sqrt(math.prod(image.shape[-2:]))
