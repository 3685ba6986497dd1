r"""SPRITE's data term: stamps of many PSFs, several exposures of each, and their normal operator.

======  ==================================================  =============================
symbol  name                                                unit
======  ==================================================  =============================
y_k     stamp of exposure k, 0 where masked                 electron
w_k     inverse variances of its pixels, 0 where masked     1/electron²
a_k     amplitude: flux · fine pixels per CCD pixel         electron
d_k     (dy, dx), the star from pixel (0, 0)                CCD pixel
M_k     ``a_k · sample(shift(x, d_k))``                     electron
G       Σ_k M_kᵀ w_k M_k                                    1
======  ==================================================  =============================

Images are coefficients of a `FrequencyGrid`, centred on pixel (0, 0). Where all pixels of a
stamp weigh the same, G couples only the at most D² frequencies that alias on the CCD's
pixels: one small matrix for each frequency of a stamp, whatever the number of exposures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from psfscale.kernels.spectral import complex_dtype

if TYPE_CHECKING:
    from jaxtyping import Bool, Complex, Float, Int
    from torch import Tensor

    from psfscale.kernels.spectral import FrequencyGrid

__all__ = ["AliasBlocks", "StampTerm", "Stamps", "alias_blocks"]


@dataclass(frozen=True, kw_only=True)
class Stamps:
    """The pixels of a batch of PSFs.

    Attributes
    ----------
    image : (psf, exposure, y, x) [electron], 0 where masked
    weight : (psf, exposure, y, x) [1/electron²]
    """

    image: Float[Tensor, "psf exposure y x"]
    weight: Float[Tensor, "psf exposure y x"]

    @property
    def present(self) -> Bool[Tensor, "psf exposure"]:
        """Stamps with at least one weighted pixel."""
        return (self.weight > 0).flatten(2).any(2)

    @property
    def uniform(self) -> bool:
        """Whether the pixels of each stamp all weigh the same."""
        flat = self.weight.flatten(2)
        return bool((flat.amax(2) == flat.amin(2)).all())

    def select(self, chosen: Tensor | slice) -> Stamps:
        """The stamps of some of the PSFs."""
        return Stamps(image=self.image[chosen], weight=self.weight[chosen])


class AliasBlocks:
    """Where the coefficients of a grid fall on the frequencies of a stamp.

    Parameters
    ----------
    grid : frequencies of the images
    """

    def __init__(self, grid: FrequencyGrid) -> None:
        ny, nx = grid.shape
        width = nx // 2 + 1
        mirrored = np.flatnonzero(grid.kx > 0)
        ky = np.concatenate([grid.ky, -grid.ky[mirrored]])
        kx = np.concatenate([grid.kx, -grid.kx[mirrored]])
        source = np.concatenate([np.arange(len(grid)), mirrored])
        seen = np.flatnonzero(kx % nx < width)
        bins = (ky[seen] % ny) * width + kx[seen] % nx
        order = np.argsort(bins, kind="stable")
        seen, bins = seen[order], bins[order]
        slot = np.arange(len(bins)) - np.searchsorted(bins, bins)
        shape = (ny * width, int(slot.max(initial=0)) + 1)
        table = np.full(shape, -1)
        table[bins, slot] = seen
        valid, entry = table >= 0, np.maximum(table, 0)
        self.valid = torch.from_numpy(valid)
        self._source = torch.from_numpy(np.where(valid, source[entry], 0))
        self._mirror = torch.from_numpy(valid & (entry >= len(grid)))
        # Each coefficient is read back from one slot that holds it, conjugated or not.
        place = np.empty(len(grid), dtype=np.int64)
        flat = table.ravel()
        held = np.flatnonzero(flat >= 0)
        place[source[flat[held]]] = held
        self._place = torch.from_numpy(place)
        self._place_mirror = torch.from_numpy(flat[place] >= len(grid))
        self._reach = grid.upsampling
        steps = np.arange(-self._reach, self._reach + 1)
        self.turns = torch.from_numpy(
            np.stack(np.meshgrid(steps, steps, indexing="ij")).reshape(2, -1)
        )
        self._both = self.valid[:, :, None] & self.valid[:, None, :]
        self._turn = torch.from_numpy(self._turn_table(ky[entry], kx[entry], grid))

    def _turn_table(
        self, ky: np.ndarray, kx: np.ndarray, grid: FrequencyGrid
    ) -> Int[np.ndarray, "bin alias alias"]:
        """Which of `turns` lies between two frequencies of a bin [cycle per CCD pixel]."""
        my = (ky[:, :, None] - ky[:, None, :]) // grid.shape[0] + self._reach
        mx = (kx[:, :, None] - kx[:, None, :]) // grid.shape[1] + self._reach
        return np.where(self._both.numpy(), my * (2 * self._reach + 1) + mx, 0)

    def gather(self, c: Complex[Tensor, "*batch frequency"]) -> Complex[Tensor, "*batch bin alias"]:
        """Coefficients by the stamp's frequency they fall on, 0 where there is none."""
        values = c[..., self._source.to(c.device)]
        values = torch.where(self._mirror.to(c.device), values.conj(), values)
        return values * self.valid.to(c.device)

    def scatter(
        self, blocks: Complex[Tensor, "*batch bin alias"]
    ) -> Complex[Tensor, "*batch frequency"]:
        """The coefficients that `gather` spread."""
        values = blocks.flatten(-2)[..., self._place.to(blocks.device)]
        return torch.where(self._place_mirror.to(blocks.device), values.conj(), values)

    def matrices(self, coupling: Complex[Tensor, "psf turn"]) -> Complex[Tensor, ...]:
        """(psf, bin, alias, alias): the coupling T_m between frequencies m apart."""
        device = coupling.device
        return coupling[:, self._turn.to(device)] * self._both.to(device)


@lru_cache(maxsize=8)
def alias_blocks(grid: FrequencyGrid) -> AliasBlocks:
    """The blocks of a grid, made once."""
    return AliasBlocks(grid)


@dataclass(frozen=True, kw_only=True)
class StampTerm:
    """The quadratic data term of a batch of PSFs at given amplitudes and centres.

    Attributes
    ----------
    grid : frequencies of the images
    stamps : the pixels
    amplitude, dy, dx : (psf, exposure)
    blocks : (psf, bin, alias, alias), G if every pixel of stamp k had the weight ``level``
    uniform : whether they have
    """

    grid: FrequencyGrid
    stamps: Stamps
    amplitude: Float[Tensor, "psf exposure"]
    dy: Float[Tensor, "psf exposure"]
    dx: Float[Tensor, "psf exposure"]
    blocks: Complex[Tensor, "psf bin alias alias"]
    uniform: bool

    @classmethod
    def at(
        cls,
        stamps: Stamps,
        *,
        grid: FrequencyGrid,
        amplitude: Tensor,
        dy: Tensor,
        dx: Tensor,
        uniform: bool,
    ) -> StampTerm:
        """The term; its blocks take each stamp at its largest weight, an upper bound of G."""
        term = cls(
            grid=grid,
            stamps=stamps,
            amplitude=amplitude,
            dy=dy,
            dx=dx,
            blocks=torch.empty(0),
            uniform=uniform,
        )
        return replace(term, blocks=term.blocks_at(stamps.weight.flatten(2).amax(2)))

    def blocks_at(self, level: Float[Tensor, "psf exposure"]) -> Complex[Tensor, ...]:
        """G in blocks if every pixel of stamp k had the weight ``level[k]``."""
        alias = alias_blocks(self.grid)
        turns = alias.turns.to(self.dy.device, self.dy.dtype)
        angle = 2 * math.pi * (self.dy[..., None] * turns[0] + self.dx[..., None] * turns[1])
        share = level * self.amplitude**2 / self.grid.pixel_ratio
        coupling = torch.polar(share[..., None].expand_as(angle).contiguous(), angle).sum(1)
        return alias.matrices(coupling)

    @property
    def information(self) -> Float[Tensor, " psf"]:
        """Σ_k a_k² max(w_k) per fine pixel: the diagonal of the blocks."""
        level = self.stamps.weight.flatten(2).amax(2)
        return (level * self.amplitude**2).sum(1) / self.grid.pixel_ratio

    @cached_property
    def _phases(self) -> Complex[Tensor, "psf exposure frequency"]:
        return self.grid.phases(self.dy, self.dx)

    def bound(self, c: Complex[Tensor, "*more psf frequency"]) -> Complex[Tensor, ...]:
        """The blocks applied: equal to `normal` for uniform stamps, above it otherwise."""
        alias = alias_blocks(self.grid)
        return alias.scatter((self.blocks @ alias.gather(c)[..., None])[..., 0])

    def normal(self, c: Complex[Tensor, "*more psf frequency"]) -> Complex[Tensor, ...]:
        """G applied to images."""
        if self.uniform:
            return self.bound(c)
        return self.adjoint(self.stamps.weight * self.forward(c))

    def forward(self, c: Complex[Tensor, "*more psf frequency"]) -> Float[Tensor, ...]:
        """Stamps (*more, psf, exposure, y, x) of the images."""
        spectra = c[..., None, :] * self._phases
        return self.amplitude[..., None, None] * self.grid.sample(spectra)

    def adjoint(self, y: Float[Tensor, "*more psf exposure y x"]) -> Complex[Tensor, ...]:
        """Adjoint of `forward`: sums over the exposures."""
        spectra = self.grid.sample_adjoint(self.amplitude[..., None, None] * y)
        return (spectra * self._phases.conj()).sum(-2)

    def right(self) -> Complex[Tensor, "psf frequency"]:
        """Σ_k M_kᵀ w_k y_k."""
        return self.adjoint(self.stamps.weight * self.stamps.image)

    def noise(self, white: Float[Tensor, "y x"]) -> Complex[Tensor, "psf frequency"]:
        """A draw of covariance G from one image of white noise, the same for all PSFs.

        Masks count by the mean weight of their stamp. The order of the exposures is immaterial.
        """
        alias = alias_blocks(self.grid)
        blocks = self.blocks_at(self.stamps.weight.flatten(2).mean(2))
        scale = torch.diagonal(blocks, dim1=-2, dim2=-1).real.amax((1, 2)).clamp(min=1e-30)
        eye = torch.eye(blocks.shape[-1], dtype=blocks.dtype, device=blocks.device)
        ridge = 1e-4 * scale[:, None, None, None] * eye
        factor = torch.linalg.cholesky(blocks + ridge)
        draw = alias.gather(self.grid.coefficients(white).to(complex_dtype(white.dtype)))
        return alias.scatter((factor @ draw[..., None])[..., 0])
