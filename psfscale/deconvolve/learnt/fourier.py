r"""The sky round a stamp, in Fourier space: where galaxies are drawn, blurred and observed.

======  ==================================================  ==================
symbol  name                                                unit
======  ==================================================  ==================
f       frequency                                           cycle / CCD pixel
m       fine pixels per CCD pixel, along an axis            1
======  ==================================================  ==================

The sky is one period of a Fourier series, wide enough that light up to `MARGIN` pixels outside
the stamp is blurred into it rightly; the stamp is its first corner. Positions count from the
stamp's centre, index ``n // 2``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from scipy.fft import next_fast_len

from psfscale.arrays import centre_index

if TYPE_CHECKING:
    from jaxtyping import Complex, Float
    from torch import Tensor

__all__ = ["Canvas", "FourierPlane"]

MARGIN = 2
"""Light from farther outside the stamp may wrap round, dimmed by the PSF's far wings [pixel]."""


class FourierPlane(ABC):
    """Frequencies at which skies are drawn, and shifts and round beams there."""

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device | None

    @property
    @abstractmethod
    def fy(self) -> Float[Tensor, "fy _"]:
        """Vertical frequencies [cycle/CCD pixel]."""

    @property
    @abstractmethod
    def fx(self) -> Float[Tensor, "_ fx"]:
        """Horizontal frequencies, which go with `fy` by broadcasting [cycle/CCD pixel]."""

    @cached_property
    def quadratic(self) -> Float[Tensor, "3 frequency"]:
        """fx², 2 fx fy, fy²: a form (xx, xy, yy) at every frequency by one product."""
        y, x = self.fy, self.fx
        return torch.stack([x**2 + 0 * y, 2 * x * y, y**2 + 0 * x]).flatten(1)

    def phase(
        self, y: Float[Tensor, "*batch"], x: Float[Tensor, "*batch"]
    ) -> Complex[Tensor, "*batch fy fx"]:
        """Phases of a shift by (y, x) [CCD pixel]."""
        turn = -2j * torch.pi
        rows = torch.exp(turn * self.fy * y[..., None, None])
        columns = torch.exp(turn * self.fx * x[..., None, None])
        return rows * columns

    def gaussian(self, sigma: float) -> Float[Tensor, "fy fx"]:
        """Transfer function of a round Gaussian of unit sum [CCD pixel]."""
        return torch.exp(-2 * torch.pi**2 * sigma**2 * (self.fy**2 + self.fx**2))


@dataclass(frozen=True, kw_only=True, eq=False)
class Canvas(FourierPlane):
    """Frequencies of the sky, and the way from them to stamps and back.

    Attributes
    ----------
    shape : (y, x) CCD pixels of the stamps
    psf_shape : (y, x) fine pixels of the PSFs
    oversampling : m; PSFs are sampled m times finer than stamps
    dtype, device : of the arrays to work on
    """

    shape: tuple[int, int]
    psf_shape: tuple[int, int]
    oversampling: int = 1
    dtype: torch.dtype = torch.float32
    device: torch.device | None = None

    @cached_property
    def fine_shape(self) -> tuple[int, int]:
        """(y, x) fine pixels of the stamp."""
        return self.shape[0] * self.oversampling, self.shape[1] * self.oversampling

    @cached_property
    def padded(self) -> tuple[int, int]:
        """(y, x) fine pixels of the sky."""
        y, x = (
            next_fast_len(max(k, n + k // 2 + MARGIN * self.oversampling), real=True)
            for n, k in zip(self.fine_shape, self.psf_shape, strict=True)
        )
        return y, x

    @cached_property
    def fy(self) -> Float[Tensor, "fy 1"]:
        """Vertical frequencies [cycle/CCD pixel]."""
        return self._frequencies(torch.fft.fftfreq(self.padded[0], dtype=torch.float64))[:, None]

    @cached_property
    def fx(self) -> Float[Tensor, "1 fx"]:
        """Horizontal frequencies of the half plane [cycle/CCD pixel]."""
        return self._frequencies(torch.fft.rfftfreq(self.padded[1], dtype=torch.float64))[None, :]

    def _frequencies(self, per_fine_pixel: Tensor) -> Tensor:
        return (per_fine_pixel * self.oversampling).to(dtype=self.dtype, device=self.device)

    @cached_property
    def to_centre(self) -> Complex[Tensor, "fy fx"]:
        """Phase that moves the origin to the stamp's centre."""
        py, px = (centre_index(n) / self.oversampling for n in self.fine_shape)
        return self.phase(self.fy.new_tensor(py), self.fy.new_tensor(px))

    def transfer(self, psf: Float[Tensor, "object ky kx"]) -> Complex[Tensor, "object fy fx"]:
        """Transfer functions of PSFs centred on index ``n // 2``.

        A CCD pixel collects what m² fine pixels hold, so that flux is flux on both grids.
        """
        ky, kx = psf.shape[-2:]
        plane = psf.new_zeros((*psf.shape[:-2], *self.padded))
        plane[..., :ky, :kx] = psf
        shift = (-centre_index(ky), -centre_index(kx))
        spectra: Tensor = torch.fft.rfft2(plane.roll(shift, dims=(-2, -1)))
        return spectra * self.oversampling**2

    def observe(self, spectra: Complex[Tensor, "*batch fy fx"]) -> Float[Tensor, "*batch y x"]:
        """Stamps as the CCD samples the sky."""
        if self.oversampling == 1:
            return self.image(spectra)
        rows, columns = self._ccd
        return self.image(spectra)[..., rows, columns]

    def image(self, spectra: Complex[Tensor, "*batch fy fx"]) -> Float[Tensor, "*batch y x"]:
        """Stamps in fine pixels; rows outside are dropped halfway through the transform."""
        ny, nx = self.fine_shape
        rows = torch.fft.ifft(spectra, dim=-2)[..., :ny, :]
        stamps: Tensor = torch.fft.irfft(rows, n=self.padded[1], dim=-1)[..., :nx]
        return stamps

    def sky(self, spectra: Complex[Tensor, "*batch fy fx"]) -> Float[Tensor, "*batch y x"]:
        """The whole sky in fine pixels, the stamp in its first corner."""
        plane: Tensor = torch.fft.irfft2(spectra, s=self.padded)
        return plane

    def spectra(self, sky: Float[Tensor, "*batch y x"]) -> Complex[Tensor, "*batch fy fx"]:
        """The inverse of `sky`."""
        out: Tensor = torch.fft.rfft2(sky)
        return out

    def adjoint(self, stamps: Float[Tensor, "*batch y x"]) -> Complex[Tensor, "*batch fy fx"]:
        """Spectra of the sky that is `stamps` at the CCD's samples and 0 elsewhere.

        ``sky(adjoint(·) · conj(K))`` is the adjoint of ``observe(spectra(·) · K)``.
        """
        plane = stamps.new_zeros((*stamps.shape[:-2], *self.padded))
        rows, columns = self._ccd
        plane[..., rows, columns] = stamps
        return self.spectra(plane)

    @cached_property
    def _ccd(self) -> tuple[slice, slice]:
        """Fine pixels at the centres of CCD pixels."""
        m = self.oversampling
        starts = [centre_index(m * n) - m * centre_index(n) for n in self.shape]
        y, x = (slice(s, m * n, m) for s, n in zip(starts, self.shape, strict=True))
        return y, x
