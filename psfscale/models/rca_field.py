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

from psfscale.errors import FitError
from psfscale.kernels.sampling import AliasGram, StarSampling
from psfscale.kernels.solvers import conjugate_gradient
from psfscale.models.rca_prior import StarScatter

if TYPE_CHECKING:
    from jaxtyping import Complex, Float
    from torch import Tensor

    from psfscale.kernels.spectral import FrequencyGrid
    from psfscale.models.rca_prior import FieldPrior
    from psfscale.models.rca_stars import StarPixels, StarValues

__all__ = [
    "Field",
    "FieldProblem",
    "WhiteFunctions",
    "noise_limit",
    "on_grid",
    "rotated",
    "solve_ridge",
]

RING = 0.05
"""Width of a ring of frequencies [cycle/CCD pixel]."""

QUIET = 1.5
"""Mean power [noise variance] below which a ring of frequencies carries nothing."""

RESIDUAL = 0.3
"""Norm of the residual at which the solver stops [noise σ of one coefficient]."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """A PSF field on a grid of frequencies.

    Attributes
    ----------
    coefficients : (component, frequency), images centred on pixel (0, 0)
    mixing : (function, component) float64, from the position functions to the components'
    basis : (star, component), values at the stars
    """

    coefficients: Complex[Tensor, "component frequency"]
    mixing: Float[Tensor, "function component"]
    basis: Float[Tensor, "star component"]

    def at_stars(self) -> Complex[Tensor, "star frequency"]:
        """Coefficients of the PSF of each star, before shift and flux."""
        return self.basis.to(self.coefficients.dtype) @ self.coefficients


@dataclass(frozen=True, kw_only=True)
class WhiteFunctions:
    """Position functions orthonormal under the stars' importance f²·w/D², by degree.

    Attributes
    ----------
    mixing : (function, function) float64, upper triangular, from the position functions
    values : (star, function) float64
    """

    mixing: Float[Tensor, "function function"]
    values: Float[Tensor, "star function"]

    @classmethod
    def of(
        cls, functions: Float[Tensor, "star function"], importance: Float[Tensor, " star"]
    ) -> WhiteFunctions:
        """Orthonormalise the functions in their order.

        Raises
        ------
        FitError
            The stars do not tell the functions apart.
        """
        gram = functions.T @ (importance.double()[:, None] * functions)
        factor, info = torch.linalg.cholesky_ex(gram)
        if int(info) != 0:
            msg = "the stars' positions do not determine the field: lower the degree or add stars"
            raise FitError(msg)
        mixing = torch.linalg.inv(factor).T
        return cls(mixing=mixing, values=functions @ mixing)

    def carry(self, field: Field) -> tuple[Field, Float[Tensor, "function component"]]:
        """The field on these functions: nearest orthonormal components, and their turn.

        The turn U maps components to white functions, ``mixing_field = mixing @ U``.
        """
        weight = torch.linalg.solve_triangular(self.mixing, field.mixing, upper=True)
        u, sizes, v = torch.linalg.svd(weight, full_matrices=False)
        turn = u @ v
        stretch = (v.T * sizes) @ v
        c = field.coefficients
        moved = Field(
            coefficients=stretch.to(c.dtype) @ c,
            mixing=self.mixing @ turn,
            basis=(self.values @ turn).to(c.real.dtype),
        )
        return moved, turn.to(c.real.dtype)


def rotated(field: Field, grid: FrequencyGrid, *, keep: int, smallest: float) -> Field:
    """The same field with orthogonal images, strongest first.

    At most `keep` components stay, and those after the first only if their norm exceeds
    `smallest` (in noise σ).
    """
    c = field.coefficients
    weight = grid.multiplicity.sqrt().to(c.real.dtype)
    real = torch.view_as_real(c * weight).flatten(1)
    u, norms, _ = torch.linalg.svd(real, full_matrices=False)
    rank = max(1, min(keep, int((norms > smallest).sum())))
    u = u[:, :rank]
    return Field(
        coefficients=u.T.to(c.dtype) @ c,
        mixing=field.mixing @ u.double(),
        basis=field.basis @ u,
    )


def noise_limit(seen: Complex[Tensor, "component frequency"], grid: FrequencyGrid) -> float | None:
    """Frequency [cycle/CCD pixel] beyond which no component rises above its noise.

    Power is averaged over rings; the limit leaves one ring more than stands out, and is None
    where even the outermost ring does.
    """
    ring = (torch.sqrt((grid.cycles**2).sum(0)) / RING).long()
    weight = grid.multiplicity
    power = torch.zeros(len(seen), int(ring.max()) + 1, dtype=weight.dtype)
    power.index_add_(1, ring, weight * seen.abs().to(weight.dtype) ** 2)
    mean = power / torch.bincount(ring, weight)
    quiet = torch.nonzero(mean.amax(0) < QUIET)
    return RING * (int(quiet[0]) + 1) if len(quiet) else None


def on_grid(field: Field, grid: FrequencyGrid, new: FrequencyGrid) -> Field:
    """The field with the frequencies of another grid of the same stamp, none of them new."""
    return replace(field, coefficients=new.coefficients(grid.image(field.coefficients)))


@dataclass(frozen=True, kw_only=True, eq=False)
class FieldProblem:
    """The stars' data as a quadratic cost of the field's coefficients.

    Each star is seen with the weight of its best pixel everywhere: what it lacks elsewhere is
    filled with the model (a majorant of the weighted cost, exact where weights are uniform,
    tightened from round to round where they are not).

    Attributes
    ----------
    grid : the field's frequencies
    gram : normal operator of the stars
    right : (component, frequency), adjoint of the filled stars
    scatter : of the stars about the field
    """

    grid: FrequencyGrid
    gram: AliasGram
    right: Complex[Tensor, "component frequency"]
    scatter: StarScatter

    @classmethod
    def of(
        cls,
        field: Field,
        pixels: StarPixels,
        values: StarValues,
        *,
        grid: FrequencyGrid,
        weight: Float[Tensor, " star"],
    ) -> FieldProblem:
        """The problem posed by stars of given flux, centre and weight about a field."""
        basis = field.basis * values.flux[:, None]
        sampling = StarSampling(grid=grid, basis=basis, dy=values.dy, dx=values.dx)
        gram = AliasGram(grid, basis, weight=weight, dy=values.dy, dx=values.dx)
        model = sampling.forward(field.coefficients)
        share = pixels.weight / pixels.full_weight[:, None, None]
        filled = model + share * (pixels.image - model)
        residual = filled - model
        return cls(
            grid=grid,
            gram=gram,
            right=sampling.adjoint(filled * weight[:, None, None]),
            scatter=StarScatter(
                residual=residual,
                share=share,
                weight=weight,
                values=values,
                grid=grid,
                rows=basis * torch.sqrt(weight / grid.pixel_ratio)[:, None],
            ),
        )

    def seen(self, field: Field) -> Complex[Tensor, "component frequency"]:
        """The field with its noise: itself plus what the data still pull it by."""
        return field.coefficients + self.right - self.gram.forward(field.coefficients)


def solve_ridge(
    field: Field, problem: FieldProblem, prior: FieldPrior, *, max_iterations: int
) -> Field:
    """The field of highest posterior density under a quadratic prior.

    Solves ``(G + V⁻¹ + rows) c = right`` by conjugate gradient, preconditioned by the diagonal
    ``(1 + V⁻¹)⁻¹``: exact up to the coupling of aliases and the few row amplitudes.
    """
    grid = problem.grid
    precision = 1 / prior.variance
    damping = 1 / (1 + precision)

    def operator(c: Tensor) -> Tensor:
        out = problem.gram.forward(c) + grid.coefficients(precision * grid.image(c))
        return out if prior.rows is None else out + prior.rows.gradient(c, grid)

    solution, _ = conjugate_gradient(
        operator,
        problem.right,
        start=field.coefficients,
        precondition=lambda c: grid.coefficients(damping * grid.image(c)),
        inner=grid.inner,
        tolerance=RESIDUAL,
        max_iterations=max_iterations,
    )
    return replace(field, coefficients=solution)
