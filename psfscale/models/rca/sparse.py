r"""The sparse and positive step of RCA: analysis prior in a dictionary, positivity of the PSFs.

Minimises, by Condat-Vũ splitting, to a checked residual of the conditions of a minimum,

``½⟨c, G c⟩ − ⟨right, c⟩ + ½ Σ s²/v + ½ Σ a²/τ + Σ_{k,j,x} λ_kj(x) |(Φ_j s_k)(x)|``,
``b(u_p)·s ≥ 0``

======  ==================================================  ==============================
symbol  name                                                unit
======  ==================================================  ==============================
c_k     coefficients of the image s_k                       noise σ
G       normal operator of the stars, near 1                1
v, τ    prior variances of pixels and of row amplitudes a   noise variance
Φ_j     band j of the dictionary, the last is not penalised 1
σ_kj    noise of component k in band j at each pixel        as s
λ_kj    threshold·σ_kj / (1 + |Φ_j s_k| / σ_kj)             as s
u_p     positions where the PSF is held positive            pixel
======  ==================================================  ==============================

Only G is left to the gradient: its eigenvalues lie near 1, so that steps are long. The priors,
whose precisions span four decades, are proximal terms in closed form.

Paper: Ngolè et al. 2016, arXiv:1608.08104, problem (S-step) and its reweighting.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from psfscale.kernels.optimize.prox import project_box, project_negative, shrink_conjugate
from psfscale.kernels.optimize.solvers import Convergence, DualTerm, condat_vu
from psfscale.models.dictionary import dictionary

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Complex, Float
    from torch import Tensor

    from psfscale.kernels.spectral import FrequencyGrid
    from psfscale.models.rca.field import Field
    from psfscale.models.rca.prior import FieldPrior, RowPrior
    from psfscale.models.rca.ridge import FieldProblem
    from psfscale.models.rca.settings import RCASettings

__all__ = ["PositionImages", "SparseSolution", "solve_sparse"]

BALANCE = 8.0
"""Dual steps against the primal one: of 2 to 16 the one that ends a fit's solves first."""

POSITIVE_SHARE = 8.0
IMAGE_SHARE = 4.0
"""Shares of the dual steps, against 1 of the dictionary."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PositionImages:
    """Images of the field at positions, as a linear map of its coefficients.

    Attributes
    ----------
    grid : the field's frequencies
    rows : (ccd, position, component), values of the field's functions
    """

    grid: FrequencyGrid
    rows: Float[Tensor, "*ccd position component"]

    def forward(
        self, x: Complex[Tensor, "*ccd component frequency"]
    ) -> Float[Tensor, "*ccd position y x"]:
        """Images of the positions."""
        return self.grid.image(self.rows.to(x.dtype) @ x)

    def adjoint(
        self, y: Float[Tensor, "*ccd position y x"]
    ) -> Complex[Tensor, "*ccd component frequency"]:
        """Coefficients of the components."""
        c = self.grid.coefficients(y)
        return self.rows.to(c.dtype).mT @ c

    def norm(self) -> Float[Tensor, "*ccd"]:
        """Exact: images and coefficients are one orthonormal transform apart."""
        size: Tensor = torch.linalg.matrix_norm(self.rows, ord=2)
        return size


@dataclass(frozen=True, kw_only=True, eq=False)
class _ComponentImages:
    """Images of the components themselves."""

    grid: FrequencyGrid

    def forward(self, x: Tensor) -> Tensor:
        return self.grid.image(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.grid.coefficients(y)

    def norm(self) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class _RowAmplitudes:
    """Amplitudes that the row prior speaks of; patterns are orthonormal, the turn orthogonal."""

    grid: FrequencyGrid
    rows: RowPrior

    def forward(self, x: Tensor) -> Tensor:
        return self.rows.forward(x, self.grid)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.rows.adjoint(y)

    def norm(self) -> float:
        return 1.0


def _boxed(half_width: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Conjugate proximal operator of Σ half_width·|z|."""
    return lambda u, _: project_box(u, half_width)


def _shrunk(variance: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Conjugate proximal operator of ½ Σ z²/variance."""
    return lambda u, step: shrink_conjugate(u, step, variance=variance)


@dataclass(frozen=True, kw_only=True)
class SparseSolution:
    """The field of least cost.

    Attributes
    ----------
    field : the field
    terms, duals : of the last pass, see `psfscale.kernels.optimize.solvers.condat_vu`
    convergence : of the last pass; its residual is in noise σ
    """

    field: Field
    terms: list[DualTerm]
    duals: list[Tensor]
    convergence: Convergence


def solve_sparse(
    field: Field,
    problem: FieldProblem,
    prior: FieldPrior,
    *,
    positions: Float[Tensor, "*ccd position component"],
    settings: RCASettings,
    tolerance: float,
    max_iterations: int,
) -> SparseSolution:
    """The field under sparsity and positivity, started from the given one.

    Parameters
    ----------
    positions : values of the field's functions where the PSF is held positive
    tolerance : residual at which a pass ends [noise σ]
    max_iterations : of a pass
    """
    grid, c = problem.grid, field.coefficients
    bank = dictionary(grid, settings)
    sigma = bank.noise((prior.variance / (prior.variance + 1)) ** 2)
    fixed, duals = _prior_terms(c, prior, grid)
    if settings.positivity:
        rows = positions / positions.norm(dim=-1, keepdim=True)
        positive = PositionImages(grid=grid, rows=rows)
        fixed.append(
            DualTerm(
                operator=positive,
                prox_conjugate=lambda u, _: project_negative(u),
                share=POSITIVE_SHARE,
            )
        )
        duals.append(torch.zeros_like(positive.forward(c)))
    duals.append(torch.zeros_like(bank.forward(c)))
    for _ in range(1 + settings.n_reweights):
        limit = settings.threshold * sigma / (1 + bank.forward(c).abs() / sigma)
        limit[..., -1, :, :] = 0
        terms = [*fixed, DualTerm(operator=bank, prox_conjugate=_boxed(limit))]
        c, duals, convergence = condat_vu(
            lambda x: x + problem.gram.coupled(x) - problem.right,
            terms,
            lipschitz=problem.gram.norm(),
            start=c,
            duals=duals,
            inner=grid.inner,
            balance=BALANCE,
            tolerance=tolerance,
            max_iterations=max_iterations,
        )
    return SparseSolution(
        field=replace(field, coefficients=c), terms=terms, duals=duals, convergence=convergence
    )


def _prior_terms(
    c: Complex[Tensor, "*ccd component frequency"], prior: FieldPrior, grid: FrequencyGrid
) -> tuple[list[DualTerm], list[Tensor]]:
    """The quadratic prior as terms, and their duals at the field."""
    image = _ComponentImages(grid=grid)
    shrink = _shrunk(prior.variance)
    terms = [DualTerm(operator=image, prox_conjugate=shrink, share=IMAGE_SHARE)]
    duals = [image.forward(c) / prior.variance]
    if prior.rows is not None:
        rows = _RowAmplitudes(grid=grid, rows=prior.rows)
        terms.append(DualTerm(operator=rows, prox_conjugate=_shrunk(prior.rows.variance)))
        duals.append(rows.forward(c) / prior.rows.variance)
    return terms, duals
