"""Iterative solvers that enforce their step sizes and say why they stopped."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from psfscale.kernels.operator import LinearOperator

__all__ = ["Convergence", "DualTerm", "condat_vu", "conjugate_gradient"]


RELAXATION = 1.6
"""Over-relaxation ρ of the primal-dual splitting."""


@dataclass(frozen=True, kw_only=True)
class Convergence:
    """Why a solver stopped.

    Attributes
    ----------
    n_iterations : iterations done
    reason : ``"tolerance"`` reached, or ``"limit"`` of iterations
    residual : norm of the last residual, in the solver's own measure
    """

    n_iterations: int
    reason: Literal["tolerance", "limit"]
    residual: float

    @property
    def converged(self) -> bool:
        """Whether the tolerance was reached."""
        return self.reason == "tolerance"


def conjugate_gradient(
    operator: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    start: Tensor,
    precondition: Callable[[Tensor], Tensor],
    inner: Callable[[Tensor, Tensor], Tensor],
    tolerance: float,
    max_iterations: int,
) -> tuple[Tensor, Convergence]:
    """Solution x of ``operator(x) = b``, operator and preconditioner positive definite.

    Stops when the residual's preconditioned norm √⟨r, M r⟩ falls below `tolerance`.
    """
    x = start
    r = b - operator(x)
    z = precondition(r)
    p, rz = z, inner(r, z)
    done = 0
    while done < max_iterations and float(rz) > tolerance**2:
        q = operator(p)
        step = rz / inner(p, q)
        x, r = x + step * p, r - step * q
        z = precondition(r)
        rz, previous = inner(r, z), rz
        p = z + (rz / previous) * p
        done += 1
    residual = float(rz) ** 0.5
    reason: Literal["tolerance", "limit"] = "tolerance" if residual <= tolerance else "limit"
    return x, Convergence(n_iterations=done, reason=reason, residual=residual)


@dataclass(frozen=True, kw_only=True)
class DualTerm:
    """One term g(L x) of a cost, known by L and the proximal operator of t·g*.

    Attributes
    ----------
    operator : L
    prox_conjugate : of t·g*, called with its argument and t
    share : of the dual steps, against the other terms'; the hardest term wants the most
    """

    operator: LinearOperator
    prox_conjugate: Callable[[Tensor, float], Tensor]
    share: float = 1.0


def condat_vu(
    gradient: Callable[[Tensor], Tensor],
    terms: Sequence[DualTerm],
    *,
    lipschitz: float,
    start: Tensor,
    duals: Sequence[Tensor],
    inner: Callable[[Tensor, Tensor], Tensor],
    balance: float = 1.0,
    tolerance: float,
    max_iterations: int,
) -> tuple[Tensor, list[Tensor], Convergence]:
    """Minimum of h(x) + Σ g_i(L_i x), h smooth with β-Lipschitz gradient.

    Source: Condat 2013, J. Optim. Theory Appl. 158, 460, algorithm 3.1 without the primal
    proximal operator, relaxation ρ = 1.6. Its condition ρ < 2 − β / (2/τ − 2 Σ σ_i ‖L_i‖²) is
    met by construction: Σ σ_i ‖L_i‖² = `balance`·β, 1/τ = (`balance` + 1.3)·β.

    Stops where x and the duals u_i solve, up to residuals of norm below `tolerance`, the
    conditions of a minimum: ``∇h(x) + Σ L_iᵀ u_i = 0`` and ``L_i x ∈ ∂g_i*(u_i)``. The norm is
    the root of the sum of both squares; a cost scaled to unit noise counts it in noise σ.

    Parameters
    ----------
    lipschitz : β
    balance : dual steps against the primal one; duals that have far to go want more

    Returns
    -------
    x, the dual variables (to start from next time), and why it stopped
    """
    tau = 1 / ((balance + 1.3) * lipschitz)
    unit = balance * lipschitz / sum(term.share for term in terms)
    sigma = [unit * term.share / term.operator.norm() ** 2 for term in terms]
    x, u = start, list(duals)
    seen = [term.operator.forward(x) for term in terms]
    dual_square = math.inf
    done = 0
    while True:
        pull = gradient(x)
        for term, dual in zip(terms, u, strict=True):
            pull = pull + term.operator.adjoint(dual)
        residual = math.sqrt(float(inner(pull, pull)) + dual_square)
        if done == max_iterations or residual <= tolerance:
            break
        x = x - RELAXATION * tau * pull
        dual_square = 0.0
        for i, term in enumerate(terms):
            step = (term.operator.forward(x) - seen[i]) / RELAXATION
            ascent = u[i] + sigma[i] * (seen[i] + 2 * step)
            move = term.prox_conjugate(ascent, sigma[i]) - u[i]
            dual_square += float(((step - move / sigma[i]) ** 2).sum())
            seen[i] = seen[i] + RELAXATION * step
            u[i] = u[i] + RELAXATION * move
        done += 1
    # Over-relaxation may leave the domain of g*; its proximal operator at step 0 goes back.
    u = [term.prox_conjugate(dual, 0.0) for term, dual in zip(terms, u, strict=True)]
    reason: Literal["tolerance", "limit"] = "tolerance" if residual <= tolerance else "limit"
    return x, u, Convergence(n_iterations=done, reason=reason, residual=residual)
