r"""Galaxies by their low frequencies alone: ten times fewer numbers than a stamp has pixels.

The stamp, dark outside, is taken for one period of the sky, a little wider than itself, and of its
transform only frequencies up to `HIGHEST` are compared with the model's. The noise there is as that
of a stamp whose pixels all have the harmonic mean of its weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING

import torch
from scipy.fft import next_fast_len

from psfscale.arrays import centre_index
from psfscale.deconvolve.learnt.background import NO_SKY
from psfscale.deconvolve.learnt.fourier import Canvas, FourierPlane

if TYPE_CHECKING:
    from jaxtyping import Complex, Float, Int
    from torch import Tensor

    from psfscale.deconvolve.learnt.background import Sky
    from psfscale.deconvolve.stack import GalaxyStack

__all__ = ["Band", "BandSight"]

HIGHEST = 0.3
"""Radius of the frequencies kept [cycle/CCD pixel]: a stamp's noise is 70 % outside, little of a
blurred galaxy is."""
WIDE = 1.0
"""The same for what profiles leave over: all frequencies of a stamp."""
MARGIN = 0.16
"""Sky round a stamp, of its side, before light that leaves it comes in again opposite."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Band(FourierPlane):
    """The low frequencies of stamps.

    Attributes
    ----------
    shape : (y, x) CCD pixels of the stamps
    psf_shape : (y, x) fine pixels of the PSFs
    oversampling : fine pixels per CCD pixel
    highest : radius of the frequencies kept [cycle/CCD pixel]
    dtype, device : of the arrays to work on
    """

    shape: tuple[int, int]
    psf_shape: tuple[int, int]
    oversampling: int = 1
    highest: float = HIGHEST
    dtype: torch.dtype = torch.float32
    device: torch.device | None = None

    @classmethod
    def of(
        cls, canvas: Canvas, *, highest: float = HIGHEST, dtype: torch.dtype | None = None
    ) -> Band:
        """Of the stamps of a canvas."""
        return cls(
            highest=highest,
            shape=canvas.shape,
            psf_shape=canvas.psf_shape,
            oversampling=canvas.oversampling,
            dtype=dtype or canvas.dtype,
            device=canvas.device,
        )

    @cached_property
    def sides(self) -> tuple[int, int]:
        """(y, x) CCD pixels of a period."""
        y, x = (
            self._side(max(math.ceil(n * (1 + MARGIN)), -(-k // self.oversampling)))
            for n, k in zip(self.shape, self.psf_shape, strict=True)
        )
        return y, x

    def _side(self, least: int) -> int:
        if self.highest < 0.5:
            return int(next_fast_len(least, real=True))
        # No frequency of an odd side is its own opposite.
        return next(n for n in count(least | 1, 2) if next_fast_len(n) == n)

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        """Rows and columns, in the half plane, of the frequencies kept: each once."""
        ny, nx = self.sides
        fy = torch.fft.fftfreq(ny, dtype=torch.float64)[:, None]
        fx = torch.fft.rfftfreq(nx, dtype=torch.float64)[None]
        kept = (fy**2 + fx**2 <= self.highest**2) & ((fx > 0) | (fy >= 0))
        rows, columns = torch.nonzero(kept.to(self.device), as_tuple=True)
        return rows, columns

    @cached_property
    def fy(self) -> Float[Tensor, "1 frequency"]:
        """Vertical frequencies [cycle/CCD pixel]."""
        return self._of(torch.fft.fftfreq(self.sides[0], dtype=torch.float64), self._places[0])

    @cached_property
    def fx(self) -> Float[Tensor, "1 frequency"]:
        """Horizontal frequencies [cycle/CCD pixel]."""
        return self._of(torch.fft.rfftfreq(self.sides[1], dtype=torch.float64), self._places[1])

    def _of(self, frequencies: Tensor, places: Tensor) -> Tensor:
        return frequencies.to(device=self.device, dtype=self.dtype)[places][None]

    @cached_property
    def scale(self) -> Float[Tensor, " frequency"]:
        """Factors that make squares of this half plane add up to a stamp's."""
        alone = (self.fx[0] == 0) & (self.fy[0] == 0)
        times = torch.where(alone, 1.0, 2.0).to(self.fy)
        return (times / math.prod(self.sides)).sqrt()

    @cached_property
    def share(self) -> float:
        """Of a stamp's noise, what lies in the band."""
        return float((self.scale.double() ** 2).sum())

    def spectra(
        self, stamps: Float[Tensor, "object y x"], *, fine: int = 1
    ) -> Complex[Tensor, "object 1 frequency"]:
        """Transforms about the centre of stamps whose pixels are `fine` times finer."""
        n, ny, nx = stamps.shape
        plane = stamps.new_zeros((n, fine * self.sides[0], fine * self.sides[1]))
        plane[:, :ny, :nx] = stamps
        found: Tensor = torch.fft.rfft2(plane)[:, self._rows(fine), self._places[1]]
        cy, cx = (self.fy.new_tensor(-centre_index(m) / fine) for m in (ny, nx))
        return found[:, None] * self.phase(cy, cx)

    def image(self, spectra: Complex[Tensor, "object 1 frequency"]) -> Float[Tensor, "object y x"]:
        """Stamps in fine pixels of a sky that has no other frequencies."""
        shape = [self.oversampling * n for n in self.shape]
        cy, cx = (self.fy.new_tensor(centre_index(n) / self.oversampling) for n in shape)
        return self.plane(spectra * self.phase(cy, cx))[:, : shape[0], : shape[1]]

    def plane(self, spectra: Complex[Tensor, "object 1 frequency"]) -> Float[Tensor, "object y x"]:
        """A whole period of that sky, the origin in its corner."""
        sides = [self.oversampling * n for n in self.sides]
        sky: Tensor = torch.fft.irfft2(self.half_plane(spectra), s=sides)
        return sky

    def half_plane(self, spectra: Tensor) -> Tensor:
        """Values (object, 1, frequency) in the half plane of that sky's transform, 0 elsewhere."""
        fine = self.oversampling
        ny, nx = (fine * n for n in self.sides)
        out = spectra.new_zeros((len(spectra), ny, nx // 2 + 1))
        rows, values = self._rows(fine), spectra[:, 0]
        out[:, rows, self._places[1]] = values
        edge = (self.fx[0] == 0) & (self.fy[0] > 0)
        out[:, ny - rows[edge], 0] = values[:, edge].conj()
        return out

    def of_half_plane(self, values: Tensor) -> Tensor:
        """The inverse of `half_plane`."""
        return values[:, self._rows(self.oversampling), self._places[1]][:, None]

    def _rows(self, fine: int) -> Int[Tensor, " frequency"]:
        """Rows in the half plane of stamps whose pixels are `fine` times finer."""
        rows = self._places[0]
        return torch.where(self.fy[0] < 0, rows + (fine - 1) * self.sides[0], rows)


@dataclass(frozen=True, kw_only=True, eq=False)
class BandSight:
    """Some galaxies as their low frequencies show them; see `sight.Sight`.

    Attributes
    ----------
    raw : (object, value) transforms over the noise
    beam : (object, 1, frequency) transfer functions from the sky
    scale : (object, 1, frequency) one over the noise
    n_values : (object,) numbers whose noise has unit variance
    level : (object, value) a level of 1 under the stamp, over the noise
    sky : levels under galaxies, integrated out of `data` and `seen`
    """

    raw: Float[Tensor, "object value"]
    beam: Complex[Tensor, "object 1 frequency"]
    scale: Float[Tensor, "object 1 frequency"]
    n_values: Float[Tensor, " object"]
    level: Float[Tensor, "object value"]
    sky: Sky

    @classmethod
    def of(
        cls,
        stack: GalaxyStack,
        band: Band,
        beam: Float[Tensor, "1 frequency"],
        sky: Sky = NO_SKY,
    ) -> BandSight:
        """Galaxies without masked pixels, through a beam and their PSFs."""
        level = (1 / stack.weight).mean((1, 2)).rsqrt()
        scale = level[:, None, None] * band.scale
        raw = torch.view_as_real(band.spectra(stack.image) * scale).flatten(1)
        flat = band.spectra(torch.ones_like(stack.image[:1]))
        transfer = band.spectra(stack.psf, fine=band.oversampling) * beam
        n_values = level.new_full((len(stack),), band.share * math.prod(band.shape))
        return cls(
            raw=raw,
            beam=transfer.expand(len(stack), -1, -1),
            scale=scale,
            n_values=n_values,
            level=torch.view_as_real(flat * scale).flatten(1),
            sky=sky,
        )

    @cached_property
    def data(self) -> Float[Tensor, "object value"]:
        """What is compared with `seen`."""
        return self.sky.whitened(self.raw - self.sky.mean * self.level, self.level)

    def select(self, chosen: Tensor) -> BandSight:
        """The galaxies picked by indices."""
        if len(chosen) == len(self.raw):
            return self
        return BandSight(
            raw=self.raw[chosen],
            beam=self.beam[chosen],
            scale=self.scale[chosen],
            n_values=self.n_values[chosen],
            level=self.level[chosen],
            sky=self.sky,
        )

    def seen(
        self, spectra: Complex[Tensor, "object model 1 frequency"]
    ) -> Float[Tensor, "object model value"]:
        """What models of the galaxies would be in place of `data`."""
        return self.sky.whitened(self._over_noise(spectra), self.level)

    def _over_noise(
        self, spectra: Complex[Tensor, "object model 1 frequency"]
    ) -> Float[Tensor, "object model value"]:
        return torch.view_as_real(spectra * self.scale[:, None]).flatten(2)

    def without_sky(self, model: Complex[Tensor, "object 1 frequency"]) -> BandSight:
        """The same less the levels that models of the galaxies make likely."""
        raised = self.raw - self.sky.mean * self.level
        residual = raised - self._over_noise(model[:, None])[:, 0]
        found = self.sky.expected(residual, self.level)
        return replace(self, raw=raised - found[:, None] * self.level, sky=NO_SKY)
