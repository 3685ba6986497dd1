r"""Wavelet bands of stamps by separable filters: linear à trous, starlet, undecimated 7/9.

The stamp is periodic and no pixel is dropped. The few taps of an à trous filter are added up along
each axis; the 7/9 filters are circulant matrices S, smoothing is ``S c Sᵀ``: on stamps of this size
both beat any FFT. The coarse band is left out: it is not penalised.

======  ==========================================  =====
symbol  name                                        unit
======  ==========================================  =====
Φ       image to bands, finest first                1
S_j     smoothing at scale j, holes of 2^j          1
c_j     smooth image, ``S_j c_{j−1} S_jᵀ``          image
======  ==========================================  =====

Sources: Starck, Fadili & Murtagh 2007, IEEE Trans. Image Process. 16, 297 (à trous, band
``c_{j−1} − c_j``); the 7/9 filters are those of PyWavelets' ``bior4.4``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

import pywt
import torch

from psfscale.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor

__all__ = ["Bands", "Wavelet"]

Wavelet = Literal["linear", "starlet", "biorthogonal"]

SMOOTHING = {"linear": (1, 2, 1), "starlet": (1, 4, 6, 4, 1)}
"""Taps of the à trous filters, to be divided by their sum."""


def _circulant(
    taps: Sequence[float], *, hole: int, centre: int, n: int
) -> Float[Tensor, "sample sample"]:
    """Matrix that convolves a periodic row of n samples with taps `hole` samples apart."""
    matrix = torch.zeros(n, n, dtype=torch.float64)
    here = torch.arange(n)
    for k, tap in enumerate(taps):
        matrix[here, (here - hole * (k - centre)) % n] += tap
    return matrix


def _smooth(c: Tensor, taps: Sequence[int], *, hole: int) -> Tensor:
    """Periodic stamps smoothed along both axes by symmetric taps `hole` samples apart."""
    middle = len(taps) // 2
    for axis in (-1, -2):
        n = c.shape[axis]
        wide = _wrapped(c, hole * middle, axis)
        c = c * (taps[middle] / sum(taps))
        for k, tap in enumerate(taps):
            if k != middle:
                c.add_(wide.narrow(axis, hole * k, n), alpha=tap / sum(taps))
    return c


def _wrapped(c: Tensor, reach: int, axis: int) -> Tensor:
    """Stamps with `reach` samples of the periods before and after."""
    n = c.shape[axis]
    if reach > n:
        return c.index_select(axis, torch.arange(-reach, n + reach, device=c.device) % n)
    return torch.cat([c.narrow(axis, n - reach, reach), c, c.narrow(axis, 0, reach)], axis)


@dataclass(frozen=True, kw_only=True, eq=False)
class Bands:
    """Φ: the wavelet bands of stamps.

    Attributes
    ----------
    shape : (y, x) pixels of the stamps
    wavelet : ``"linear"`` ([1, 2, 1]/4), ``"starlet"`` ([1, 4, 6, 4, 1]/16), one band a scale, or
        ``"biorthogonal"`` (7/9), three bands a scale: high along x, along y, along both
    n_scales : scales, without the coarse band

    Raises
    ------
    ConfigError
        There is no such wavelet, or no scale.
    """

    shape: tuple[int, int]
    wavelet: Wavelet = "linear"
    n_scales: int = 3

    def __post_init__(self) -> None:
        if self.wavelet not in get_args(Wavelet) or self.n_scales < 1:
            msg = (
                f"bands are of one of {get_args(Wavelet)}, at least one scale; got "
                f"{self.wavelet!r}, {self.n_scales}"
            )
            raise ConfigError(msg)
        if 2**self.n_scales > 2 * max(self.shape):
            msg = f"{self.n_scales} scales reach beyond stamps of {self.shape} pixels: take fewer"
            raise ConfigError(msg)

    @property
    def per_scale(self) -> int:
        """Bands of a scale."""
        return 3 if self.wavelet == "biorthogonal" else 1

    def __len__(self) -> int:
        return self.per_scale * self.n_scales

    @cached_property
    def _circulants(self) -> list[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
        return [(self._pair(j, high=False), self._pair(j, high=True)) for j in range(self.n_scales)]

    def _matrices(self, scale: int, like: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The 7/9 filters' matrices along y and x, low and high."""
        low, high = self._circulants[scale]
        return [m.to(like) for m in low], [m.to(like) for m in high]

    def _pair(self, scale: int, *, high: bool) -> tuple[Tensor, Tensor]:
        taps = [t / math.sqrt(2) for t in pywt.Wavelet("bior4.4").filter_bank[int(high)]]
        centre = max(range(len(taps)), key=lambda k: abs(taps[k]))
        y, x = (_circulant(taps, hole=2**scale, centre=centre, n=n) for n in self.shape)
        return y, x

    def forward(self, x: Float[Tensor, "*batch y x"]) -> Float[Tensor, "*batch band y x"]:
        """The bands of the stamps."""
        out = x.new_empty((*x.shape[:-2], len(self), *self.shape))
        smooth = x
        for j in range(self.n_scales):
            if self.wavelet == "biorthogonal":
                low, high = self._matrices(j, x)
                along_low, along_high = smooth @ low[1].T, smooth @ high[1].T
                out[..., 3 * j, :, :] = low[0] @ along_high
                out[..., 3 * j + 1, :, :] = high[0] @ along_low
                out[..., 3 * j + 2, :, :] = high[0] @ along_high
                smooth = low[0] @ along_low
            else:
                coarse = _smooth(smooth, SMOOTHING[self.wavelet], hole=2**j)
                torch.sub(smooth, coarse, out=out[..., j, :, :])
                smooth = coarse
        return out

    def adjoint(self, y: Float[Tensor, "*batch band y x"]) -> Float[Tensor, "*batch y x"]:
        """Adjoint of `forward`."""
        total = torch.zeros_like(y[..., 0, :, :])
        for j in reversed(range(self.n_scales)):
            if self.wavelet == "biorthogonal":
                low, high = self._matrices(j, y)
                wide, tall, both = (y[..., 3 * j + k, :, :] for k in range(3))
                along_low = low[0].T @ total + high[0].T @ tall
                along_high = low[0].T @ wide + high[0].T @ both
                total = along_low @ low[1] + along_high @ high[1]
            else:
                band = y[..., j, :, :]
                total = _smooth(total - band, SMOOTHING[self.wavelet], hole=2**j).add_(band)
        return total

    @cached_property
    def power(self) -> Float[Tensor, "band fy fx"]:
        """|φ_b|² on the half plane of the stamp's frequencies, float64."""
        impulse = torch.zeros(self.shape, dtype=torch.float64)
        impulse[0, 0] = 1
        spectra: Tensor = torch.fft.rfft2(self.forward(impulse))
        return spectra.abs() ** 2

    def norm(self) -> float:
        """Largest singular value, exact."""
        return math.sqrt(float(self.power.sum(0).max()))

    def noise(self, gain: Float[Tensor, "*batch fy fx"]) -> Float[Tensor, "*batch band"]:
        """Standard deviation in each band of white noise of unit variance seen through a filter.

        `gain` is the squared modulus of the filter's transfer function on the half plane.
        """
        nx = self.shape[1]
        twice = torch.full((nx // 2 + 1,), 2.0, dtype=torch.float64)
        twice[0] = 1
        if nx % 2 == 0:
            twice[-1] = 1
        power = (self.power * twice).flatten(1).to(gain.device)
        return torch.sqrt(gain.double().flatten(-2) @ power.T / math.prod(self.shape)).to(gain)
