r"""The field's side of RCA: eigen-PSFs from the stars' residuals, under priors from the data.

The field is ``Σ_k b_k(position) s_k``. Its functions b are kept orthonormal in the noise
metric of the stars, so that each image s_k is seen with white noise of unit variance per
coefficient, and rotated so that the images are orthogonal: the first carries the most
signal-to-noise, the last nothing.

======  ==================================================  ==============================
symbol  name                                                unit
======  ==================================================  ==============================
s_k     image of component k (its coefficients c_k)         noise σ of one fine pixel
b_k     function of component k at the stars                1 / (flux · noise σ)
R       (function, component), from position polynomials    as b
======  ==================================================  ==============================
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Complex, Float, Int
    from torch import Tensor

    from psfscale.kernels.spectral import FrequencyGrid

__all__ = [
    "Field",
    "WhiteFunctions",
    "leading",
    "noise_limits",
    "on_grid",
    "rotated",
]

RING = 0.05
"""Width of a ring of frequencies [cycle/CCD pixel]."""

QUIET = 1.5
"""Mean power [noise variance] below which a ring of frequencies carries nothing."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """PSF fields of some CCDs on a grid of frequencies.

    Attributes
    ----------
    coefficients : (ccd, component, frequency), images centred on pixel (0, 0)
    mixing : (ccd, function, component) float64, from position functions to components'
    basis : (ccd, star, component), values at the stars
    """

    coefficients: Complex[Tensor, "*ccd component frequency"]
    mixing: Float[Tensor, "*ccd function component"]
    basis: Float[Tensor, "*ccd star component"]

    def at_stars(self) -> Complex[Tensor, "*ccd star frequency"]:
        """Coefficients of the PSF of each star, before shift and flux."""
        return self.basis.to(self.coefficients.dtype) @ self.coefficients


@dataclass(frozen=True, kw_only=True)
class WhiteFunctions:
    """Position functions orthonormal under the stars' importance f²·w/D², by degree.

    Attributes
    ----------
    mixing : (ccd, function, function) float64, upper triangular, from the position functions
    values : (ccd, star, function) float64
    determined : (ccd,) False where the stars do not tell the functions apart
    """

    mixing: Float[Tensor, "*ccd function function"]
    values: Float[Tensor, "*ccd star function"]
    determined: Bool[Tensor, "*ccd"]

    @classmethod
    def of(
        cls, functions: Float[Tensor, "*ccd star function"], importance: Float[Tensor, "*ccd star"]
    ) -> WhiteFunctions:
        """Orthonormalise the functions in their order."""
        gram = functions.mT @ (importance.double()[..., None] * functions)
        factor, info = torch.linalg.cholesky_ex(gram)
        mixing = torch.linalg.inv_ex(factor).inverse.mT
        return cls(mixing=mixing, values=functions @ mixing, determined=info == 0)

    def carry(self, field: Field) -> tuple[Field, Float[Tensor, "*ccd function component"]]:
        """The field on these functions: nearest orthonormal components, and their turn.

        The turn U maps components to white functions, ``mixing_field = mixing @ U``.
        """
        weight = self.turn(field)
        u, sizes, v = torch.linalg.svd(weight, full_matrices=False)
        turn = u @ v
        stretch = (v.mT * sizes[..., None, :]) @ v
        c = field.coefficients
        moved = Field(
            coefficients=stretch.to(c.dtype) @ c,
            mixing=self.mixing @ turn,
            basis=(self.values @ turn).to(c.real.dtype),
        )
        return moved, turn.to(c.real.dtype)

    def turn(self, field: Field) -> Float[Tensor, "*ccd function component"]:
        """The field's components in white functions."""
        parts: Tensor = torch.linalg.solve_triangular(self.mixing, field.mixing, upper=True)
        return parts


def rotated(field: Field, grid: FrequencyGrid) -> tuple[Field, Float[Tensor, "*ccd component"]]:
    """The same field with orthogonal images, strongest first, and their norms [noise σ]."""
    c = field.coefficients
    plain = torch.view_as_real(c * grid.weight(c).sqrt()).flatten(-2).double()
    square, u = torch.linalg.eigh(plain @ plain.mT)
    u = u.flip(-1)
    turned = Field(
        coefficients=u.mT.to(c.dtype) @ c,
        mixing=field.mixing @ u,
        basis=field.basis @ u.to(field.basis.dtype),
    )
    return turned, square.flip(-1).clamp(min=0).sqrt()


def leading(field: Field, rank: Int[Tensor, "*ccd"]) -> Field:
    """The field's first components, as many as each CCD has; those beyond are empty."""
    most = int(rank.max())
    kept = torch.arange(most, device=rank.device) < rank[..., None]
    return Field(
        coefficients=field.coefficients[..., :most, :] * kept[..., None],
        mixing=field.mixing[..., :most] * kept[..., None, :],
        basis=field.basis[..., :most] * kept[..., None, :],
    )


def noise_limits(
    seen: Complex[Tensor, "ccd component frequency"], grid: FrequencyGrid
) -> list[float | None]:
    """Frequencies [cycles per CCD pixel] beyond which no component rises above its noise.

    Power is averaged over rings; a limit leaves one ring more than stands out, and is None
    where even the outermost ring does.
    """
    ring = (torch.sqrt((grid.cycles**2).sum(0)) / RING).long().to(seen.device)
    weight = grid.multiplicity.to(seen.device)
    power = weight.new_zeros(*seen.shape[:-1], int(ring.max()) + 1)
    power.index_add_(-1, ring, weight * seen.abs().to(weight.dtype) ** 2)
    quiet = (power / torch.bincount(ring, weight)).amax(-2) < QUIET
    first = [torch.nonzero(row) for row in quiet]
    return [RING * (int(row[0]) + 1) if len(row) else None for row in first]


def on_grid(field: Field, grid: FrequencyGrid, new: FrequencyGrid) -> Field:
    """The field with the frequencies of another grid of the same stamp, none of them new."""
    return replace(field, coefficients=new.coefficients(grid.image(field.coefficients)))
