r"""The sparse and positive step of RCA: starlet analysis prior and positivity of the PSFs.

Minimises, by Condat-Vũ splitting,

``½⟨c, G c⟩ − ⟨right, c⟩ + ½ Σ s²/v + Σ_{k,j,x} λ_{kj}(x) |(Φ_j s_k)(x)| + [b(u_p)·s ≥ 0]``

======  ==================================================  ==============================
symbol  name                                                unit
======  ==================================================  ==============================
Φ_j     starlet band j, the coarse one is not penalised     1
σ_kj    noise of component k in band j at each pixel        as s
λ_kj    threshold·σ_kj / (1 + |Φ_j s_k| / σ_kj)             as s
u_p     positions where the PSF is held positive            pixel
======  ==================================================  ==============================

Paper: Ngolè et al. 2016, arXiv:1608.08104, problem (S-step) and its reweighting.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from psfscale.kernels.prox import project_box
from psfscale.kernels.solvers import DualTerm, condat_vu
from psfscale.kernels.starlet import Starlet

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Complex, Float
    from torch import Tensor

    from psfscale.kernels.spectral import FrequencyGrid
    from psfscale.models.rca_field import Field, FieldProblem
    from psfscale.models.rca_prior import FieldPrior
    from psfscale.models.settings import RCASettings

__all__ = ["PositionImages", "solve_sparse"]

LEAST_VARIANCE = 0.02
"""Floor of the prior variance [noise variance]: below it, sparsity empties a pixel faster."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PositionImages:
    """Images of the field at positions, as a linear map of its coefficients.

    Attributes
    ----------
    grid : the field's frequencies
    rows : (position, component), values of the field's functions
    """

    grid: FrequencyGrid
    rows: Float[Tensor, "position component"]

    def forward(self, x: Complex[Tensor, "component frequency"]) -> Float[Tensor, "position y x"]:
        """Images (position, y, x)."""
        return self.grid.image(self.rows.to(x.dtype) @ x)

    def adjoint(self, y: Float[Tensor, "position y x"]) -> Complex[Tensor, "component frequency"]:
        """Coefficients (component, frequency)."""
        c = self.grid.coefficients(y)
        return self.rows.to(c.dtype).T @ c

    def norm(self) -> float:
        """Exact: images and coefficients are one orthonormal transform apart."""
        return float(torch.linalg.matrix_norm(self.rows, ord=2))


def _boxed(half_width: Tensor) -> Callable[[Tensor, float], Tensor]:
    return lambda u, _: project_box(u, half_width)


def _cut(u: Tensor, _: float) -> Tensor:
    """Conjugate proximal operator of positivity."""
    return torch.clamp(u, max=0)


def _freed(u: Tensor, _: float) -> Tensor:
    """Conjugate proximal operator of no constraint."""
    return torch.zeros_like(u)


def solve_sparse(
    field: Field,
    problem: FieldProblem,
    prior: FieldPrior,
    *,
    positions: Float[Tensor, "position component"],
    settings: RCASettings,
    max_iterations: int,
) -> Field:
    """The field under sparsity and positivity, started from the given one."""
    grid, rows, variance = problem.grid, prior.rows, prior.variance
    starlet = Starlet(grid=grid, n_scales=settings.n_scales)
    norms = starlet.noise_norms.to(variance.dtype)[:-1, None, None]
    shrink = (variance / (variance + grid.fraction))[:, None]
    sigma = norms * shrink
    precision = 1 / variance.clamp(min=LEAST_VARIANCE * grid.fraction)
    lipschitz = (
        problem.gram.norm() + float(precision.max()) + (0.0 if rows is None else rows.norm())
    )
    positive = PositionImages(grid=grid, rows=positions / positions.norm(dim=1, keepdim=True))

    def gradient(x: Tensor) -> Tensor:
        out = problem.gram.forward(x) + grid.coefficients(precision * grid.image(x)) - problem.right
        return out if rows is None else out + rows.gradient(x, grid)

    c = field.coefficients
    duals = [torch.zeros_like(starlet.forward(c)), torch.zeros_like(positive.forward(c))]
    for _ in range(1 + settings.n_reweights):
        bands = starlet.forward(c)[:, :-1].abs()
        limit = torch.zeros_like(duals[0])
        limit[:, :-1] = settings.threshold * sigma / (1 + bands / sigma)
        terms = [
            DualTerm(operator=starlet, prox_conjugate=_boxed(limit)),
            DualTerm(operator=positive, prox_conjugate=_cut if settings.positivity else _freed),
        ]
        c, duals, _ = condat_vu(
            gradient,
            terms,
            lipschitz=lipschitz,
            start=c,
            duals=duals,
            inner=grid.inner,
            tolerance=1e-5,
            max_iterations=max_iterations,
        )
    return replace(field, coefficients=c)
