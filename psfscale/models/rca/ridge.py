"""The stars' data as a quadratic cost of RCA's field, and its minimum under a Gaussian prior."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from psfscale.kernels.optimize.solvers import conjugate_gradient
from psfscale.kernels.sampling import AliasGram, StarSampling
from psfscale.models.rca.prior import FieldCovariance, StarScatter

if TYPE_CHECKING:
    from jaxtyping import Complex, Float
    from torch import Tensor

    from psfscale.kernels.spectral import FrequencyGrid
    from psfscale.models.rca.field import Field
    from psfscale.models.rca.prior import FieldPrior
    from psfscale.models.rca.stars import StarPixels, StarValues

__all__ = ["FieldProblem", "solve_ridge"]

RESIDUAL = 1.0
"""Norm of the residual at which the solver stops [noise σ of one coefficient].

The noise of a whole field has a norm of tens."""


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
    right : (ccd, component, frequency), adjoint of the filled stars
    scatter : of the stars about the field
    """

    grid: FrequencyGrid
    gram: AliasGram
    right: Complex[Tensor, "*ccd component frequency"]
    scatter: StarScatter

    @classmethod
    def of(
        cls,
        field: Field,
        pixels: StarPixels,
        values: StarValues,
        *,
        grid: FrequencyGrid,
        weight: Float[Tensor, "*ccd star"],
    ) -> FieldProblem:
        """Return the problem posed by stars of given flux, centre and weight about a field."""
        basis = field.basis * values.flux[..., None]
        sampling = StarSampling(grid=grid, basis=basis, dy=values.dy, dx=values.dx)
        gram = AliasGram(grid, basis, weight=weight, dy=values.dy, dx=values.dx)
        model = sampling.forward(field.coefficients)
        share = pixels.share()
        residual = share * (pixels.image - model)
        return cls(
            grid=grid,
            gram=gram,
            right=sampling.adjoint((model + residual) * weight[..., None, None]),
            scatter=StarScatter(
                residual=residual,
                share=share,
                weight=weight,
                values=values,
                grid=grid,
                rows=basis * torch.sqrt(weight / grid.pixel_ratio)[..., None],
            ),
        )

    def seen(self, field: Field) -> Complex[Tensor, "*ccd component frequency"]:
        """Return the field with its noise: what the data show once the coupling is taken off."""
        return self.right - self.gram.coupled(field.coefficients)


def solve_ridge(
    field: Field, problem: FieldProblem, prior: FieldPrior, *, max_iterations: int
) -> Field:
    """Return the field of highest posterior density under a quadratic prior.

    Solves ``(G + P) c = right``, P the prior's precision, by conjugate gradient. The
    preconditioner is its inverse up to the coupling of aliases and the band limit.
    """
    grid = problem.grid
    solution, _ = conjugate_gradient(
        lambda c: c + problem.gram.coupled(c) + prior.gradient(c, grid),
        problem.right,
        start=field.coefficients,
        precondition=FieldCovariance(prior, grid),
        inner=grid.inner,
        tolerance=RESIDUAL,
        max_iterations=max_iterations,
    )
    return replace(field, coefficients=solution)
