r"""Convolution of stamps with a PSF each: real transforms, in a batch, PSF transforms once.

======  =====================================================  ==================
symbol  name                                                   unit
======  =====================================================  ==================
H       convolution with the PSF, centre on index ``n // 2``   1
K       transfer function of the PSF, half plane               1
P, M    even and odd part of a real gain under ky → −ky        of the gain
======  =====================================================  ==================

Two boundaries. ``"circular"``: the stamp is one period of the sky, H has the transfer function
K on the stamp's own grid and HᵀH the gain |K|², exactly. ``"zero"``: the sky outside the stamp
is dark and what the PSF carries outside is lost; the stamp is padded just so far that nothing
wraps round.

On a stamp whose side has a large prime factor (41, 61), where an FFT is slow, a real gain such as
that of HᵀH is applied in the real Fourier basis ``F`` (rows cos and sin, orthogonal) as matrix
products: ``HᵀHx = Fᵀ(P ⊙ R + M ⊙ R(−ky, −kx))F`` with ``R = F x Fᵀ``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Literal, get_args

import torch
from scipy.fft import next_fast_len

from psfscale.errors import ConfigError
from psfscale.kernels.blocks import stack_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from jaxtyping import Complex, Float
    from torch import Tensor

__all__ = ["Boundary", "Convolution", "Gain", "real_fourier_basis"]

Boundary = Literal["circular", "zero"]

LARGEST_RADIX = 7
LARGEST_PRODUCT = 64
"""A side with a prime factor above the first, up to the second, is transformed by products."""


@lru_cache(maxsize=16)
def real_fourier_basis(n: int) -> Float[Tensor, "frequency sample"]:
    """Orthogonal rows cos(2πkj/n) for k = 0 … n/2, then sin for k descending to 1, float64.

    Index k and n − k are the cosine and the sine of one frequency.
    """
    k = torch.arange(n, dtype=torch.float64)
    angle = 2 * math.pi * ((k[:, None] * k) % n) / n
    rows = torch.where((k <= n // 2)[:, None], angle.cos(), -angle.sin()) * math.sqrt(2 / n)
    alone = (k == 0) | (2 * k == n)
    return torch.where(alone[:, None], rows / math.sqrt(2), rows)


@dataclass(frozen=True, kw_only=True, eq=False)
class Convolution:
    """H: stamps of ``shape`` convolved with their PSFs.

    Attributes
    ----------
    psf : (object, y, x), one per object, or (y, x) or (1, y, x) for all of them; centre on
        index ``n // 2`` of both axes; its size is free
    shape : (y, x) pixels of the stamps
    boundary : ``"circular"`` or ``"zero"``, see the module

    Raises
    ------
    ConfigError
        There is no such boundary.
    """

    psf: Float[Tensor, "*object ky kx"]
    shape: tuple[int, int]
    boundary: Boundary = "circular"

    def __post_init__(self) -> None:
        if self.boundary not in get_args(Boundary):
            msg = f"boundary is one of {get_args(Boundary)}, got {self.boundary!r}"
            raise ConfigError(msg)

    @cached_property
    def padded(self) -> tuple[int, int]:
        """(y, x) samples of the transforms."""
        if self.boundary == "circular":
            return self.shape
        sizes = [
            next_fast_len(n + max(k // 2, k - 1 - k // 2), real=True)
            for n, k in zip(self.shape, self.psf.shape[-2:], strict=True)
        ]
        return sizes[0], sizes[1]

    @cached_property
    def _kernel_bins(self) -> Tensor:
        """Where the pixels of a PSF stand in a plane whose centre is its first pixel."""
        (py, px), (ky, kx) = self.padded, self.psf.shape[-2:]
        rows = (torch.arange(ky) - ky // 2) % py
        columns = (torch.arange(kx) - kx // 2) % px
        return (rows[:, None] * px + columns).flatten().to(self.psf.device)

    @cached_property
    def transfer(self) -> Complex[Tensor, "*object fy fx"]:
        """K, computed once."""
        (py, px), n_batch = self.padded, self.psf.shape[:-2]
        psf = self.psf.reshape(-1, *self.psf.shape[-2:])
        spectra = torch.empty(
            (len(psf), py, px // 2 + 1), dtype=psf.dtype.to_complex(), device=psf.device
        )
        for block in self._blocks(psf):
            plane = psf.new_zeros((len(psf[block]), py * px))
            plane.index_add_(1, self._kernel_bins, psf[block].flatten(1))
            spectra[block] = torch.fft.rfft2(plane.reshape(-1, py, px))
        return spectra.reshape(*n_batch, py, px // 2 + 1)

    def norm(self) -> float:
        """Largest singular value: exact where circular, an upper bound where not."""
        return float(self.transfer.abs().max())

    def forward(self, x: Float[Tensor, "*object y x"]) -> Float[Tensor, "*object y x"]:
        """The stamps as the PSFs blur them."""
        return self._blockwise(self._convolved, x, self.transfer)

    def adjoint(self, y: Float[Tensor, "*object y x"]) -> Float[Tensor, "*object y x"]:
        """The adjoint of `forward`: correlation with the PSFs."""
        return self._blockwise(self._convolved, y, self.transfer.conj())

    def normal(
        self, x: Float[Tensor, "*object y x"], weight: Float[Tensor, "*object y x"] | None = None
    ) -> Float[Tensor, "*object y x"]:
        """``Hᵀ(weight ⊙ Hx)``; without weight on a circular stamp in one pass."""
        if weight is not None:
            return self.adjoint(weight * self.forward(x))
        if self.boundary == "zero":
            return self.adjoint(self.forward(x))
        return self._normal_gain(x)

    @cached_property
    def _normal_gain(self) -> Gain:
        return self._gain(lambda power, _: power)

    def resolvent(self, damping: Float[Tensor, " psf"]) -> Gain:
        """``(HᵀH + damping)⁻¹`` on a circular stamp; holds nothing of the convolution."""
        return self._gain(lambda power, block: 1 / (power + damping[block, None, None]))

    def _gain(self, of_power: Callable[[Tensor, slice], Tensor]) -> Gain:
        transfer = self.transfer.reshape(-1, *self.transfer.shape[-2:])
        parts = (of_power(_square(transfer[block]), block) for block in self._blocks(transfer))
        return Gain.of(parts, n=self.psf.shape[:-2], shape=self.shape, like=self.psf)

    def response(self, images: Float[Tensor, "image y x"]) -> Float[Tensor, "psf image"]:
        """Norm of each image as each PSF blurs it, on a circular stamp."""
        spectra = torch.fft.rfft2(images).abs().square()
        ny, nx = self.shape
        twice = spectra.new_full((nx // 2 + 1,), 2.0)
        twice[0] = 1
        if nx % 2 == 0:
            twice[-1] = 1
        gain = Convolution(psf=self.psf, shape=self.shape).power
        energy = gain.flatten(1) @ (spectra * twice).flatten(1).T
        return torch.sqrt(energy / (ny * nx))

    def kernel_adjoint(
        self, x: Float[Tensor, "object y x"], y: Float[Tensor, "object y x"]
    ) -> Float[Tensor, "psf ky kx"]:
        """Adjoint of `forward` as a map of the PSF at given stamps x, applied to y.

        Summed over the stamps where one PSF serves them all.
        """
        spectra = torch.fft.rfft2(y, s=self.padded) * torch.fft.rfft2(x, s=self.padded).conj()
        if len(self.psf) == 1:
            spectra = spectra.sum(0, keepdim=True)
        plane: Tensor = torch.fft.irfft2(spectra, s=self.padded)
        return plane.flatten(1)[:, self._kernel_bins].reshape(self.psf.shape)

    def kernel_gain(self, x: Float[Tensor, "object y x"]) -> Float[Tensor, "psf 1 1"]:
        """Bound of the squared norm of `forward` as a map of the PSF at given stamps x."""
        power = torch.fft.rfft2(x, s=self.padded).abs().square()
        if len(self.psf) == 1:
            power = power.sum(0, keepdim=True)
        largest: Tensor = power.flatten(1).amax(1)
        return largest[:, None, None]

    @cached_property
    def power(self) -> Float[Tensor, "*object fy fx"]:
        """|K|²."""
        return _square(self.transfer)

    def _convolved(self, x: Tensor, transfer: Tensor) -> Tensor:
        spectra = torch.fft.rfft2(x, s=self.padded) * transfer
        whole: Tensor = torch.fft.irfft2(spectra, s=self.padded)
        return whole[..., : self.shape[0], : self.shape[1]]

    def _blockwise(self, apply: Callable[..., Tensor], x: Tensor, *factors: Tensor) -> Tensor:
        return _blockwise(apply, x, factors, samples=math.prod(self.padded))

    def _blocks(self, x: Tensor) -> Iterator[slice]:
        return stack_blocks(x, samples=math.prod(self.padded))


@dataclass(frozen=True, kw_only=True, eq=False)
class Gain:
    """Stamps whose Fourier transform is multiplied by real gains, the same at k and −k.

    Attributes
    ----------
    shape : (y, x) pixels of the stamps
    parts : P and M on the plane of the real Fourier basis, (object, y, x) and less its first row
        and column; or the gains on the half plane alone, (object, fy, fx), where an FFT is fast
    """

    shape: tuple[int, int]
    parts: tuple[Tensor, ...]

    @classmethod
    def of(
        cls,
        gains: Iterable[Float[Tensor, "some fy fx"]],
        *,
        n: Sequence[int],
        shape: tuple[int, int],
        like: Tensor,
    ) -> Gain:
        """From gains on the half plane, a few objects at a time; `n` the axes of all of them."""
        ny, nx = shape
        sizes = [(ny, nx), (ny - 1, nx - 1)] if _prefers_products(shape) else [(ny, nx // 2 + 1)]
        parts = tuple(like.new_empty((math.prod(n), *size)) for size in sizes)
        first = 0
        for gain in gains:
            mine = slice(first, first + len(gain))
            halves = _parity_parts(gain, shape) if len(parts) > 1 else (gain,)
            for part, half in zip(parts, halves, strict=True):
                part[mine] = half
            first += len(gain)
        return cls(shape=shape, parts=tuple(part.reshape(*n, *part.shape[1:]) for part in parts))

    def __call__(self, x: Float[Tensor, "*object y x"]) -> Float[Tensor, "*object y x"]:
        """The stamps filtered."""
        apply = self._scaled if len(self.parts) == 1 else self._mixed
        return _blockwise(apply, x, self.parts, samples=math.prod(self.shape))

    def select(self, objects: slice) -> Gain:
        """Of some of the objects, where each has its own."""
        if len(self.parts[0]) == 1:
            return self
        return Gain(shape=self.shape, parts=tuple(part[objects] for part in self.parts))

    def _scaled(self, x: Tensor, gain: Tensor) -> Tensor:
        spectra = torch.view_as_real(torch.fft.rfft2(x)) * gain[..., None]
        image: Tensor = torch.fft.irfft2(torch.view_as_complex(spectra), s=self.shape)
        return image

    def _mixed(self, x: Tensor, even: Tensor, odd: Tensor) -> Tensor:
        fy, fx = (real_fourier_basis(n).to(x) for n in self.shape)
        spectra = fy @ (x @ fx.T)
        out = spectra * even
        out[..., 1:, 1:].addcmul_(spectra[..., 1:, 1:].flip((-2, -1)), odd)
        return fy.T @ (out @ fx)


def _parity_parts(
    gain: Float[Tensor, "object fy fx"], shape: tuple[int, int]
) -> tuple[Float[Tensor, "object y x"], Float[Tensor, "object y1 x1"]]:
    """P and M on the whole plane of the real Fourier basis."""
    ny, nx = shape
    column = torch.arange(nx, device=gain.device)
    mirrored = (-torch.arange(ny, device=gain.device)) % ny
    # Beyond the half plane the gain at (ky, kx) is that at (−ky, nx − kx).
    right = gain[..., column.clamp(max=nx // 2)]
    left = gain[..., mirrored, :][..., torch.minimum(nx - column, column)]
    here = torch.where(column <= nx // 2, right, left)
    there = here[..., mirrored, :]
    return (there + here) / 2, ((there - here) / 2)[..., 1:, 1:]


def _square(transfer: Tensor) -> Tensor:
    """|K|²."""
    return transfer.real**2 + transfer.imag**2


def _blockwise(
    apply: Callable[..., Tensor], x: Tensor, factors: Sequence[Tensor], *, samples: int
) -> Tensor:
    """`apply`, to a few stamps at a time where they form a plain stack."""
    if x.ndim != 3:
        return apply(x, *factors)
    out = torch.empty_like(x)
    for block in stack_blocks(x, samples=samples):
        mine = (f[block] if f.ndim == 3 and len(f) == len(x) else f for f in factors)
        out[block] = apply(x[block], *mine)
    return out


def _prefers_products(shape: tuple[int, int]) -> bool:
    return max(shape) <= LARGEST_PRODUCT and any(_largest_prime(n) > LARGEST_RADIX for n in shape)


def _largest_prime(n: int) -> int:
    factor, largest = 2, 1
    while n > 1:
        while n % factor == 0:
            n, largest = n // factor, factor
        factor += 1
    return largest
