r"""PSF fields as Fourier series of period one stamp, and their samples on CCD pixels.

A stamp of ``(ny, nx)`` CCD pixels is one period of the series; upsampling ``D`` admits the
frequencies below ``D/2`` cycles per CCD pixel, a band limit cuts them to a disc. An image on
the smallest pixel grid that holds these frequencies (the *fine* grid, a size of small prime
factors) and its *coefficients* are one orthonormal transform apart:

======  ========================================  =================================
symbol  name                                      unit
======  ========================================  =================================
c       coefficients, complex, half plane         as the image
k       frequency (`ky`, `kx`), kx ≥ 0            cycles per stamp
D       upsampling                                2 · highest cycles per CCD pixel
======  ========================================  =================================

Coefficients of the half plane stand for the whole of a real image; the inner product of two
images is ``sum(multiplicity * Re(conj(a) * b))``. The highest frequency of an even grid is
left out, so that a sub-pixel shift is exactly a phase. Results lie on the input's device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from scipy.fft import next_fast_len

from psfscale.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Complex, Float, Int
    from torch import Tensor

__all__ = ["FrequencyGrid", "complex_dtype", "frequency_grid"]


def complex_dtype(dtype: torch.dtype) -> torch.dtype:
    """The complex type of the same precision as a real (or complex) one."""
    return torch.promote_types(dtype, torch.complex64)


_Table = TypeVar("_Table")


def _moved(table: Any, device: torch.device) -> Any:
    """Tensors, in tuples and dicts, on a device."""
    if isinstance(table, dict):
        return {key: _moved(value, device) for key, value in table.items()}
    if isinstance(table, tuple):
        return tuple(_moved(value, device) for value in table)
    return table.to(device)


@dataclass(frozen=True, kw_only=True, eq=False)
class FrequencyGrid:
    """The frequencies of a PSF field and their aliases on the CCD's pixel grid.

    Attributes
    ----------
    shape : (y, x) CCD pixels of a stamp, the period
    upsampling : 2 / (shortest period) [1/CCD pixel]
    fine_shape : (y, x) pixels of a fine image
    band_limit : radius of the admitted disc [cycles per CCD pixel], or None
    ky, kx : (frequency,) [cycles per stamp], kx ≥ 0
    """

    shape: tuple[int, int]
    upsampling: int
    fine_shape: tuple[int, int]
    band_limit: float | None
    ky: Int[np.ndarray, " frequency"]
    kx: Int[np.ndarray, " frequency"]

    def __len__(self) -> int:
        return len(self.ky)

    @property
    def pixel_ratio(self) -> float:
        """Fine pixels per CCD pixel, by area."""
        return math.prod(self.fine_shape) / math.prod(self.shape)

    @property
    def fraction(self) -> float:
        """Share of the fine image's degrees of freedom that the grid admits."""
        return float(self.multiplicity.sum()) / math.prod(self.fine_shape)

    @cached_property
    def multiplicity(self) -> Float[Tensor, " frequency"]:
        """2 where a coefficient stands for itself and its conjugate, else 1."""
        return torch.from_numpy(np.where(self.kx > 0, 2.0, 1.0))

    @cached_property
    def cycles(self) -> Float[Tensor, "2 frequency"]:
        """Frequencies along y and x [cycles per CCD pixel]."""
        return torch.from_numpy(np.stack([self.ky / self.shape[0], self.kx / self.shape[1]]))

    @cached_property
    def _kept(self) -> dict[Any, Any]:
        """Tables made so far, by what they are and where they lie."""
        return {}

    def _on(self, device: torch.device, name: str, make: Callable[[], _Table]) -> _Table:
        """A table of tensors on a device, made and moved there once."""
        key = name, device
        if key not in self._kept:
            self._kept[key] = _moved(make(), device)
        kept: _Table = self._kept[key]
        return kept

    def _bins(self, shape: tuple[int, int], device: torch.device) -> Int[Tensor, " frequency"]:
        """Where the coefficients stand in the half plane of an image of this shape."""
        ny, nx = shape
        return self._on(
            device,
            f"bins {shape}",
            lambda: torch.from_numpy((self.ky % ny) * (nx // 2 + 1) + self.kx),
        )

    @cached_property
    def _whole_plane(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """All frequencies (ky, kx), where each is stored, and whether as its conjugate."""
        mirrored = np.flatnonzero(self.kx > 0)
        here = np.arange(len(self))
        return (
            np.concatenate([self.ky, -self.ky[mirrored]]),
            np.concatenate([self.kx, -self.kx[mirrored]]),
            np.concatenate([here, mirrored]),
            np.arange(len(self) + len(mirrored)) >= len(self),
        )

    def _fold_table(self) -> tuple[Tensor, Tensor]:
        """For each frequency in a stamp's half plane: its bin, and its source.

        Sources stand in the coefficients followed by their conjugates.
        """
        ky, kx, source, conjugate = self._whole_plane
        ny, nx = self.shape
        width = nx // 2 + 1
        seen = (kx % nx) < width
        bins = (ky % ny) * width + kx % nx
        sources = source + conjugate * len(self)
        return torch.from_numpy(bins[seen]), torch.from_numpy(sources[seen])

    def _unfold_table(self) -> tuple[Tensor, Tensor]:
        """For each coefficient: the bin of a stamp's half plane it falls on, and if conjugate."""
        ny, nx = self.shape
        width = nx // 2 + 1
        conjugate = (self.kx % nx) >= width
        sign = np.where(conjugate, -1, 1)
        bins = (sign * self.ky) % ny * width + (sign * self.kx) % nx
        return torch.from_numpy(bins), torch.from_numpy(conjugate)

    def aliases(self, device: torch.device) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
        """Pairs of frequencies that fall on one bin of the CCD's pixel grid.

        For each whole difference (my, mx) in cycles per CCD pixel: the coefficients k, and
        where k − (my·ny, mx·nx) stands in the coefficients followed by their conjugates.
        """
        return self._on(device, "aliases", self._alias_table)

    def _alias_table(self) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
        ky, kx, source, conjugate = self._whole_plane
        sources = source + conjugate * len(self)
        ny, nx = self.shape
        reach_y, reach_x = int(ky.max(initial=0)), int(kx.max(initial=0))
        where = np.full((2 * reach_y + 1, 2 * reach_x + 1), -1)
        where[ky + reach_y, kx + reach_x] = sources
        table = {}
        for my in range(-2 * reach_y // ny, 2 * reach_y // ny + 1):
            for mx in range(-2 * reach_x // nx, 2 * reach_x // nx + 1):
                y, x = self.ky - my * ny + reach_y, self.kx - mx * nx + reach_x
                inside = (y >= 0) & (y <= 2 * reach_y) & (x >= 0) & (x <= 2 * reach_x)
                found = np.full(len(self), -1)
                found[inside] = where[y[inside], x[inside]]
                here = np.flatnonzero(found >= 0)
                if here.size:
                    table[my, mx] = torch.from_numpy(here), torch.from_numpy(found[here])
        return table

    @cached_property
    def most_aliases(self) -> int:
        """Largest number of frequencies that share a bin of the CCD's pixel grid."""
        ky, kx, _, _ = self._whole_plane
        ny, nx = self.shape
        return int(np.bincount((ky % ny) * nx + kx % nx).max(initial=1))

    def image(
        self, c: Complex[Tensor, "*batch frequency"], shape: tuple[int, int] | None = None
    ) -> Float[Tensor, "*batch y x"]:
        """The image of coefficients on the fine grid, or on one of another shape.

        The same continuous image, period one stamp, whatever the shape; orthonormal on the
        fine grid. `shape` must hold all frequencies.
        """
        ny, nx = shape or self.fine_shape
        plane = c.new_zeros((*c.shape[:-1], ny * (nx // 2 + 1)))
        plane.index_copy_(-1, self._bins((ny, nx), c.device), c)
        plane = plane.reshape(*c.shape[:-1], ny, nx // 2 + 1)
        image: Tensor = torch.fft.irfft2(plane, s=(ny, nx), norm="ortho")
        return image if shape is None else image * self._scale(shape)

    def coefficients(
        self, image: Float[Tensor, "*batch y x"]
    ) -> Complex[Tensor, "*batch frequency"]:
        """The coefficients of an image: inverse of `image`, and its adjoint on the fine grid."""
        ny, nx = image.shape[-2:]
        plane: Tensor = torch.fft.rfft2(image, norm="ortho").flatten(-2)
        values = plane.index_select(-1, self._bins((ny, nx), image.device))
        return values if (ny, nx) == self.fine_shape else values / self._scale((ny, nx))

    def _scale(self, shape: tuple[int, int]) -> float:
        return math.sqrt(math.prod(shape) / math.prod(self.fine_shape))

    def weight(self, like: Tensor) -> Float[Tensor, " frequency"]:
        """`multiplicity` in the precision and on the device of `like`."""
        dtype = like.real.dtype
        return self._on(like.device, f"weight {dtype}", lambda: self.multiplicity.to(dtype))

    def inner(
        self,
        a: Complex[Tensor, "*batch component frequency"],
        b: Complex[Tensor, "*batch component frequency"],
    ) -> Float[Tensor, "*batch"]:
        """Inner product of sets of images, components summed."""
        product = torch.view_as_real(a) * torch.view_as_real(b)
        return (product.sum(-3) * self.weight(a)[:, None]).sum((-2, -1))

    def phases(self, dy: Tensor, dx: Tensor) -> Complex[Tensor, "*batch frequency"]:
        """Factors that move an image by (dy, dx) CCD pixels towards larger y and x."""
        cycles = self._on(dy.device, f"cycles {dy.dtype}", lambda: self.cycles.to(dy.dtype))
        angle = -2 * math.pi * (dy[..., None] * cycles[0] + dx[..., None] * cycles[1])
        return torch.polar(torch.ones_like(angle), angle)

    def sample(self, c: Complex[Tensor, "*batch frequency"]) -> Float[Tensor, "*batch y x"]:
        """The image of coefficients at the centres of the CCD pixels, (0, 0) first."""
        ny, nx = self.shape
        bins, source = self._on(c.device, "fold", self._fold_table)
        values = torch.cat([c, c.conj()], -1).index_select(-1, source)
        plane = c.new_zeros((*c.shape[:-1], ny * (nx // 2 + 1)))
        plane.index_add_(plane.ndim - 1, bins, values)
        plane = plane.reshape(*c.shape[:-1], ny, nx // 2 + 1)
        stamp: Tensor = torch.fft.irfft2(plane, s=(ny, nx), norm="ortho")
        return stamp / math.sqrt(self.pixel_ratio)

    def sample_adjoint(
        self, stamp: Float[Tensor, "*batch y x"]
    ) -> Complex[Tensor, "*batch frequency"]:
        """Adjoint of `sample`."""
        bins, conjugate = self._on(stamp.device, "unfold", self._unfold_table)
        values = torch.fft.rfft2(stamp, norm="ortho").flatten(-2).index_select(-1, bins)
        return torch.where(conjugate, values.conj(), values) / math.sqrt(self.pixel_ratio)


@lru_cache(maxsize=8)
def frequency_grid(
    shape: tuple[int, int], *, upsampling: int, band_limit: float | None = None
) -> FrequencyGrid:
    """The frequencies below ``upsampling / 2``, and inside the band limit where one is given.

    Raises
    ------
    ConfigError
        The stamp, the upsampling or the band limit is not positive.
    """
    if min(shape) < 1 or upsampling < 1 or (band_limit is not None and band_limit <= 0):
        msg = (
            "a frequency grid needs a positive stamp, upsampling and band limit, got "
            f"{shape}, {upsampling}, {band_limit}"
        )
        raise ConfigError(msg)
    ny, nx = shape
    reach_y, reach_x = (ny * upsampling - 1) // 2, (nx * upsampling - 1) // 2
    ky, kx = np.mgrid[-reach_y : reach_y + 1, 0 : reach_x + 1].reshape(2, -1)
    keep = np.ones(ky.shape, dtype=bool)
    if band_limit is not None:
        keep = (ky / ny) ** 2 + (kx / nx) ** 2 <= band_limit**2
    ky, kx = ky[keep], kx[keep]
    fine = [next_fast_len(2 * int(k.max()) + 1, real=True) for k in (ky, kx)]
    return FrequencyGrid(
        shape=shape,
        upsampling=upsampling,
        fine_shape=(fine[0], fine[1]),
        band_limit=band_limit,
        ky=ky,
        kx=kx,
    )
