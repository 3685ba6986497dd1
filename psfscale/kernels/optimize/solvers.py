"""Iterative solvers that enforce their step sizes and say why they stopped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from psfscale.kernels.operator import LinearOperator

__all__ = ["Convergence", "DualTerm", "condat_vu", "conjugate_gradient"]


RELAXATION = 1.6
"""Over-relaxation ρ of the primal-dual splitting."""


@dataclass(frozen=True, kw_only=True)
class Convergence:
    """Why a solver stopped, for each system of a batch.

    Attributes
    ----------
    n_iterations : (*batch) iterations done
    converged : (*batch) whether the tolerance was reached; if not, the limit of iterations
    residual : (*batch) norm of the last residual, in the solver's own measure
    """

    n_iterations: Int[Tensor, "*batch"]
    converged: Bool[Tensor, "*batch"]
    residual: Float[Tensor, "*batch"]


def _over(factor: Tensor, like: Tensor) -> Tensor:
    """A number for each system, shaped to multiply the systems."""
    return factor.reshape(*factor.shape, *(1,) * (like.ndim - factor.ndim))


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
    """Solutions x of ``operator(x) = b``, operator and preconditioner M positive definite.

    Each system of a batch stops by itself, where its residual's norm √⟨r, M r⟩ falls below
    `tolerance`, so that a batch gives what its systems give alone.

    Parameters
    ----------
    b : (*batch, ...)
    inner : inner product of two arrays, (*batch)
    """
    x = start
    r = b - operator(x)
    z = precondition(r)
    p, rz = z, inner(r, z)
    done = torch.zeros(rz.shape, dtype=torch.int64, device=rz.device)
    for _ in range(max_iterations):
        active = rz > tolerance**2
        if not bool(active.any()):
            break
        q = operator(p)
        step = _over(torch.where(active, rz / inner(p, q), 0.0), x)
        x, r = x + step * p, r - step * q
        z = precondition(r)
        rz, previous = torch.where(active, inner(r, z), rz), rz
        p = z + _over(torch.where(active, rz / previous, 0.0), x) * p
        done = done + active
    residual = rz.clamp(min=0).sqrt()
    return x, Convergence(n_iterations=done, converged=residual <= tolerance, residual=residual)


@dataclass(frozen=True, kw_only=True)
class DualTerm:
    """One term g(L x) of a cost, known by L and the proximal operator of t·g*.

    Attributes
    ----------
    operator : L
    prox_conjugate : of t·g*, called with its argument and t, shaped to multiply it
    share : of the dual steps, against the other terms'; the hardest term wants the most
    """

    operator: LinearOperator
    prox_conjugate: Callable[[Tensor, Tensor], Tensor]
    share: float = 1.0


def condat_vu(
    gradient: Callable[[Tensor], Tensor],
    terms: Sequence[DualTerm],
    *,
    lipschitz: Tensor | float,
    start: Tensor,
    duals: Sequence[Tensor],
    inner: Callable[[Tensor, Tensor], Tensor],
    balance: float = 1.0,
    tolerance: float,
    max_iterations: int,
) -> tuple[Tensor, list[Tensor], Convergence]:
    """Minimum of h(x) + Σ g_i(L_i x) for each system of a batch, h smooth, its gradient Lipschitz.

    Source: Condat 2013, J. Optim. Theory Appl. 158, 460, algorithm 3.1 without the primal
    proximal operator, relaxation ρ = 1.6. Its condition ρ < 2 − β / (2/τ − 2 Σ σ_i ‖L_i‖²) is
    met by construction: Σ σ_i ‖L_i‖² = `balance`·β, 1/τ = (`balance` + 1.3)·β.

    Stops where x and the duals u_i solve, up to residuals of norm below `tolerance`, the
    conditions of a minimum: ``∇h(x) + Σ L_iᵀ u_i = 0`` and ``L_i x ∈ ∂g_i*(u_i)``. The norm is
    the root of the sum of both squares; a cost scaled to unit noise counts it in noise σ. Each
    system stops by itself, so that a batch gives what its systems give alone.

    Parameters
    ----------
    lipschitz : (*batch), β
    inner : inner product of two arrays, (*batch)
    balance : dual steps against the primal one; duals that have far to go want more

    Returns
    -------
    x, the dual variables (to start from next time), and why it stopped
    """
    x, u = start, list(duals)
    like = inner(x, x)
    beta = torch.as_tensor(lipschitz).to(like).expand_as(like)
    tau = 1 / ((balance + 1.3) * beta)
    unit = balance * beta / sum(term.share for term in terms)
    sigma = [
        _over(unit * term.share / term.operator.norm() ** 2, dual)
        for term, dual in zip(terms, u, strict=True)
    ]
    seen = [term.operator.forward(x) for term in terms]
    dual_square = residual = torch.full_like(beta, torch.inf)
    done = torch.zeros(beta.shape, dtype=torch.int64, device=beta.device)
    active = torch.ones_like(done, dtype=torch.bool)
    for iteration in range(max_iterations + 1):
        pull = gradient(x)
        for term, dual in zip(terms, u, strict=True):
            pull = pull + term.operator.adjoint(dual)
        residual = torch.where(active, (inner(pull, pull) + dual_square).sqrt(), residual)
        active = active & (residual > tolerance)
        if iteration == max_iterations or not bool(active.any()):
            break
        relaxed = torch.where(active, RELAXATION, 0.0)
        x = x - _over(relaxed * tau, x) * pull
        dual_square = torch.zeros_like(beta)
        for i, term in enumerate(terms):
            step = (term.operator.forward(x) - seen[i]) / RELAXATION
            ascent = u[i] + sigma[i] * (seen[i] + 2 * step)
            move = term.prox_conjugate(ascent, sigma[i]) - u[i]
            gap = (step - move / sigma[i]) ** 2
            dual_square = dual_square + gap.flatten(beta.ndim).sum(-1)
            seen[i] = seen[i] + _over(relaxed, step) * step
            u[i] = u[i] + _over(relaxed, move) * move
        done = done + active
    # Over-relaxation may leave the domain of g*; its proximal operator at step 0 goes back.
    steps = zip(terms, u, sigma, strict=True)
    u = [term.prox_conjugate(dual, torch.zeros_like(s)) for term, dual, s in steps]
    return x, u, Convergence(n_iterations=done, converged=residual <= tolerance, residual=residual)
