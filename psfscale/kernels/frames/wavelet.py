r"""Undecimated filter banks on a periodic fine image: the bi-orthogonal 7/9, or a user's own.

A bank is a set of transfer functions φ_b; band b of an image is its convolution with the
filter, at every fine pixel. The 7/9 filters (Cohen, Daubechies & Feauveau 1992, used by
SPRITE, A&A 575, A86) are those that PyWavelets calls ``bior4.4``, with holes of 2^j at scale
j, scaled so that the coarse band keeps the mean of the image.

======  ==========================================  =============
symbol  name                                        unit
======  ==========================================  =============
φ_b     analysis filter of band b                   1
ψ_b     synthesis filter, Σ_b ψ_b φ_b = 1           1
j       scale, 0 is the finest                      1
======  ==========================================  =============
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pywt
import torch

from psfscale.errors import InputError
from psfscale.kernels.spectral import complex_dtype

if TYPE_CHECKING:
    from jaxtyping import Complex, Float, Num
    from torch import Tensor

    from psfscale.kernels.spectral import FrequencyGrid

__all__ = ["FilterBank", "biorthogonal79", "filter_bank"]

SMALLEST_GAIN = 1e-6
"""Share of the largest Σ|φ|² below which a user's bank does not see a frequency."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FilterBank:
    """Bands of PSF images, from their coefficients.

    Attributes
    ----------
    grid : frequencies of the images
    filters : (band, frequency) transfer functions φ_b, coarse band last; complex128, or float64
        where all filters are symmetric about their centre
    synthesis : (band, frequency) transfer functions ψ_b
    """

    grid: FrequencyGrid
    filters: Num[Tensor, "band frequency"]
    synthesis: Num[Tensor, "band frequency"]

    @cached_property
    def noise_norms(self) -> Float[Tensor, " band"]:
        """Standard deviation in each band of an image of white noise of unit variance.

        The noise is that of the grid's frequencies alone: a band limit lowers it.
        """
        power = (self.grid.multiplicity * self.filters.abs() ** 2).sum(-1)
        return torch.sqrt(power / math.prod(self.grid.fine_shape))

    def filters_like(self, c: Tensor) -> Num[Tensor, "band frequency"]:
        """The filters on the device and of the precision of coefficients."""
        return _like(self.filters, c)

    def noise(self, variance: Float[Tensor, "*batch y x"]) -> Float[Tensor, "*batch band y x"]:
        """Standard deviation of each coefficient for noise of a variance that changes in space.

        The noise is white noise of the grid's frequencies (unit variance a coefficient) times
        the root of `variance`; exact where that is constant over the filters.
        """
        impulse = self.grid.image(self.filters.to(torch.complex128))
        kernel = impulse**2 / math.prod(self.grid.fine_shape)
        transfer = torch.fft.rfft2(kernel).to(variance.device, complex_dtype(variance.dtype))
        seen: Tensor = torch.fft.irfft2(
            torch.fft.rfft2(variance)[..., None, :, :] * transfer, s=self.grid.fine_shape
        )
        return seen.clamp(min=0).sqrt()

    def forward(self, x: Complex[Tensor, "*batch frequency"]) -> Float[Tensor, "*batch band y x"]:
        """The bands of the images."""
        return self.grid.image(x[..., None, :] * self.filters_like(x))

    def adjoint(self, y: Float[Tensor, "*batch band y x"]) -> Complex[Tensor, "*batch frequency"]:
        """Coefficients from bands: the adjoint of `forward`."""
        c = self.grid.coefficients(y)
        return (c * self.filters_like(c).conj()).sum(-2)

    def inverse(self, y: Float[Tensor, "*batch band y x"]) -> Complex[Tensor, "*batch frequency"]:
        """Coefficients of the image that has these bands."""
        c = self.grid.coefficients(y)
        return (c * _like(self.synthesis, c)).sum(-2)

    def norm(self) -> float:
        """Exact: the largest Σ_band |filter|² over the grid's frequencies."""
        return math.sqrt(float((self.filters.abs() ** 2).sum(0).max()))


def _like(filters: Tensor, c: Tensor) -> Tensor:
    """Filters on the device and of the precision of coefficients, real ones real."""
    return filters.to(c.device, c.dtype if filters.is_complex() else c.real.dtype)


def _simplest(filters: Complex[Tensor, "band frequency"]) -> Num[Tensor, "band frequency"]:
    """Real filters where their imaginary parts are rounding alone."""
    rounding = 1e-12 * float(filters.abs().max())
    return filters if float(filters.imag.abs().max()) > rounding else filters.real.contiguous()


def _transfer(
    taps: Float[np.ndarray, " tap"], *, centre: int, omega: Float[Tensor, " frequency"]
) -> Complex[Tensor, " frequency"]:
    """Σ_n taps[n] exp(−iω(n − centre))."""
    n = torch.arange(len(taps), dtype=omega.dtype) - centre
    weight = torch.as_tensor(taps, dtype=torch.complex128)
    return torch.polar(torch.ones_like(n[:, None] * omega), -n[:, None] * omega).T @ weight


def _peak(taps: Float[np.ndarray, " tap"]) -> int:
    return int(np.argmax(np.abs(taps)))


def scaled_frequencies(grid: FrequencyGrid, n_scales: int) -> list[Tensor]:
    """Angular frequencies along y and x per fine sample, of a transform of `n_scales` scales.

    Raises
    ------
    InputError
        `n_scales` is not positive.
    """
    if n_scales < 1:
        msg = f"a wavelet transform needs at least one scale, got {n_scales}"
        raise InputError(msg)
    return [
        2 * math.pi * torch.from_numpy(k / n)
        for k, n in zip((grid.ky, grid.kx), grid.fine_shape, strict=True)
    ]


def biorthogonal79(grid: FrequencyGrid, *, n_scales: int) -> FilterBank:
    """The undecimated bi-orthogonal 7/9 transform: three bands a scale, and the coarse band.

    Bands are ordered from the finest scale, in each: high along x, high along y, high along
    both.

    Raises
    ------
    InputError
        `n_scales` is not positive.
    """
    wavelet = pywt.Wavelet("bior4.4")
    taps = [np.asarray(f) / math.sqrt(2) for f in wavelet.filter_bank]
    low, high = _peak(taps[0]), _peak(taps[1])
    # A pair's product is symmetric about the last tap's delay: it fixes the second centre.
    delay = len(taps[0]) - 1
    centres = [low, high, delay - low, delay - high]
    omega = scaled_frequencies(grid, n_scales)
    analysis, synthesis = [], []
    smooth = torch.ones(len(grid), dtype=torch.complex128)
    rebuild = smooth
    for scale in range(n_scales):
        y, x = (
            [_transfer(t, centre=c, omega=2**scale * w) for t, c in zip(taps, centres, strict=True)]
            for w in omega
        )
        for a, b in ((0, 1), (1, 0), (1, 1)):
            analysis.append(smooth * y[a] * x[b])
            synthesis.append(rebuild * y[a + 2] * x[b + 2])
        smooth, rebuild = smooth * y[0] * x[0], rebuild * y[2] * x[2]
    return FilterBank(
        grid=grid,
        filters=_simplest(torch.stack([*analysis, smooth])),
        synthesis=_simplest(torch.stack([*synthesis, rebuild])),
    )


def filter_bank(grid: FrequencyGrid, kernels: Float[np.ndarray, "band y x"]) -> FilterBank:
    """A user's bank of filters; the image comes back by the pseudo-inverse.

    Parameters
    ----------
    kernels : (band, y, x) impulse responses, sampled ``upsampling`` times a CCD pixel,
        centred on index ``n // 2``, coarse band last

    Raises
    ------
    InputError
        The kernels are not such an array, larger than the fine image, or together blind to a
        frequency of the grid.
    """
    kernels = np.asarray(kernels, dtype=np.float64)
    if kernels.ndim != 3 or not np.isfinite(kernels).all():
        msg = f"a filter bank is a finite array (band, y, x), got shape {kernels.shape}"
        raise InputError(msg)
    largest = tuple(n * grid.upsampling for n in grid.shape)
    if any(k > n for k, n in zip(kernels.shape[1:], largest, strict=True)):
        msg = f"filters of shape {kernels.shape[1:]} exceed the super-resolved stamp {largest}"
        raise InputError(msg)
    omega = 2 * math.pi * grid.cycles / grid.upsampling
    y, x = (torch.arange(n, dtype=torch.float64) - n // 2 for n in kernels.shape[1:])
    wave_y = torch.exp(-1j * y[:, None] * omega[0])
    wave_x = torch.exp(-1j * x[:, None] * omega[1])
    values = torch.as_tensor(kernels, dtype=torch.complex128)
    filters = torch.einsum("byx,yf,xf->bf", values, wave_y, wave_x)
    power = (filters.abs() ** 2).sum(0)
    if float(power.min()) < SMALLEST_GAIN * float(power.max()) or float(power.max()) == 0:
        msg = "the filter bank is blind to some frequencies: add a band, such as the coarse one"
        raise InputError(msg)
    synthesis = filters.conj() / power
    return FilterBank(grid=grid, filters=_simplest(filters), synthesis=_simplest(synthesis))
