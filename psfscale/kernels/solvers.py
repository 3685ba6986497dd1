"""Iterative solvers that enforce their step sizes and say why they stopped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from psfscale.kernels.operator import LinearOperator

__all__ = ["Convergence", "DualTerm", "condat_vu", "conjugate_gradient"]


@dataclass(frozen=True, kw_only=True)
class Convergence:
    """Why a solver stopped.

    Attributes
    ----------
    n_iterations : iterations done
    reason : ``"tolerance"`` reached, or ``"limit"`` of iterations
    change : last relative change (Condat-Vũ) or the residual's norm (conjugate gradient)
    """

    n_iterations: int
    reason: Literal["tolerance", "limit"]
    change: float

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
    change = float(rz) ** 0.5
    reason: Literal["tolerance", "limit"] = "tolerance" if change <= tolerance else "limit"
    return x, Convergence(n_iterations=done, reason=reason, change=change)


@dataclass(frozen=True, kw_only=True)
class DualTerm:
    """One term g(L x) of a cost, known by L and the proximal operator of t·g*."""

    operator: LinearOperator
    prox_conjugate: Callable[[Tensor, float], Tensor]


def condat_vu(
    gradient: Callable[[Tensor], Tensor],
    terms: Sequence[DualTerm],
    *,
    lipschitz: float,
    start: Tensor,
    duals: Sequence[Tensor],
    inner: Callable[[Tensor, Tensor], Tensor],
    tolerance: float,
    max_iterations: int,
) -> tuple[Tensor, list[Tensor], Convergence]:
    """Minimum of h(x) + Σ g_i(L_i x), h smooth with Lipschitz gradient.

    Source: Condat 2013, J. Optim. Theory Appl. 158, 460, algorithm 3.1 without the primal
    proximal operator, relaxation 1. The steps τ = 1/(1.05 β) and σ = 0.525 β / Σ‖L_i‖² meet
    its condition 1/τ − σ Σ‖L_i‖² > β/2 by construction.

    Returns
    -------
    x, the dual variables (to start from next time), and why it stopped: the relative change
    of x in one iteration (against its largest norm) fell below `tolerance`, or the limit was
    reached.
    """
    total = sum(term.operator.norm() ** 2 for term in terms)
    tau = 1 / (1.05 * lipschitz)
    sigma = 0.525 * lipschitz / total
    x, u = start, list(duals)
    change, largest = float("inf"), 0.0
    done = 0
    while done < max_iterations and change > tolerance:
        pull = gradient(x)
        for term, dual in zip(terms, u, strict=True):
            pull = pull + term.operator.adjoint(dual)
        ahead = x - tau * pull
        beyond = 2 * ahead - x
        for i, term in enumerate(terms):
            u[i] = term.prox_conjugate(u[i] + sigma * term.operator.forward(beyond), sigma)
        step = ahead - x
        x = ahead
        largest = max(largest, float(inner(x, x)))
        change = (float(inner(step, step)) / largest) ** 0.5 if largest > 0 else 0.0
        done += 1
    reason: Literal["tolerance", "limit"] = "tolerance" if change <= tolerance else "limit"
    return x, u, Convergence(n_iterations=done, reason=reason, change=change)
