r"""Three splittings of a cost f + Σ g_i, f smooth, for stacks that converge object by object.

======  ==================================================  ==================
symbol  name                                                unit
======  ==================================================  ==================
f       smooth term, gradient β-Lipschitz                   cost
g_i     terms with a proximal operator                      cost
L_i     linear operators inside the dual terms              1
τ, σ    primal and dual steps                               1/β, β/‖L‖²
ρ       relaxation                                          1
======  ==================================================  ==================

Sources: Condat 2013, J. Optim. Theory Appl. 158, 460 (algorithm 3.1); Beck & Teboulle 2009, SIAM
J. Imaging Sci. 2, 183, with the gradient restart of O'Donoghue & Candès 2015; Raguet, Fadili &
Peyré 2013, SIAM J. Imaging Sci. 6, 1199 (algorithm 1). Steps that do not converge are refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch

from psfscale.errors import ConfigError
from psfscale.kernels.blocks import stack_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Float
    from torch import Tensor

    from psfscale.kernels.operator import LinearOperator

    Prox = Callable[[Tensor, float], Tensor]

__all__ = [
    "ALL",
    "Ending",
    "GradientStep",
    "PrimalStep",
    "StackedDualTerm",
    "Steps",
    "StopTest",
    "forward_backward",
    "generalised_forward_backward",
    "primal_dual",
    "primal_dual_steps",
]


ALL = slice(None)
"""All objects."""


class StopTest(Protocol):
    """Decides after each iteration whether the solution is near enough."""

    @property
    def residual(self) -> float:
        """What it last measured, in its own terms."""
        ...

    def __call__(self, x: Tensor, moved: Float[Tensor, " object"]) -> bool:
        """Whether to stop at `x`, whose objects have moved as far from the ones before."""
        ...


class PrimalStep(Protocol):
    """The primal half of a primal-dual iteration."""

    def at(self, x: Tensor) -> Callable[[Tensor, slice], Tensor]:
        """From x on: against a pull Lᵀu of some of the objects, to where these would go."""
        ...


@dataclass(frozen=True, kw_only=True)
class Ending:
    """Why a solver stopped.

    Attributes
    ----------
    n_iterations : iterations done
    reason : ``"tolerance"`` reached, or ``"limit"`` of iterations
    residual : of the stop test, at the end
    """

    n_iterations: int
    reason: Literal["tolerance", "limit"]
    residual: float

    @property
    def converged(self) -> bool:
        """Whether the tolerance was reached."""
        return self.reason == "tolerance"


@dataclass(frozen=True, kw_only=True)
class StackedDualTerm:
    """One term g(L x) of a cost, known by L and the proximal operator of σ·g*.

    Attributes
    ----------
    operator : L
    prox_conjugate : of σ·g*, called with its argument, σ and the objects that the argument is of
    sigma : dual step, or (object,) the step of each
    joint : whether the proximal operator needs all objects at once
    """

    operator: LinearOperator
    prox_conjugate: Callable[[Tensor, float | Tensor, slice], Tensor]
    sigma: float | Tensor
    joint: bool = False

    def step(self, objects: slice, like: Tensor) -> float | Tensor:
        """σ of some objects, shaped to multiply their duals."""
        if not isinstance(self.sigma, torch.Tensor):
            return self.sigma
        mine = self.sigma[objects] if len(self.sigma) > 1 else self.sigma
        return mine.reshape(-1, *(1,) * (like.ndim - 1))


@dataclass(frozen=True, kw_only=True)
class GradientStep:
    """x − τ(∇f(x) + Lᵀu), projected on what is allowed: for any f that is smooth."""

    gradient: Callable[[Tensor], Tensor]
    project: Callable[[Tensor], Tensor]
    tau: float

    def at(self, x: Tensor) -> Callable[[Tensor, slice], Tensor]:
        """From x on."""
        slope = self.gradient(x)

        def ahead(pull: Tensor, objects: slice) -> Tensor:
            return self.project(x[objects].sub(slope[objects] + pull, alpha=self.tau))

        return ahead


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Steps of the primal-dual splitting that meet its condition; see `primal_dual_steps`."""

    tau: float
    sigma: float
    relaxation: float


def primal_dual_steps(
    *,
    lipschitz: float,
    norm_square: float,
    tau: float | None = None,
    sigma: float | None = None,
    relaxation: float | None = None,
) -> Steps:
    """Steps for `primal_dual`; what is not given is chosen.

    The condition: ``δ = 2 − β / (2/τ − 2 σ Σ‖L_i‖²)`` lies in [1, 2] and ρ in (0, δ). Chosen are
    σ Σ‖L_i‖² = β/2 (half of the largest), τ just inside the condition, and ρ = 1.

    Parameters
    ----------
    lipschitz : β
    norm_square : Σ‖L_i‖², 0 without dual terms

    Raises
    ------
    ConfigError
        The given steps do not meet the condition.
    """
    beta = max(lipschitz, math.ulp(1.0))
    if sigma is None:
        room = math.inf if tau is None else 1 / tau - beta / 2
        sigma = min(beta / 2, 0.99 * room) / max(norm_square, math.ulp(1.0)) if norm_square else 0.5
    if tau is None:
        tau = 0.99 / (sigma * norm_square + beta / 2)
    slack = 1 / tau - sigma * norm_square if tau > 0 else -1.0
    delta = 2 - beta / (2 * slack) if slack > 0 else -math.inf
    rho = 1.0 if relaxation is None else relaxation
    if not (sigma > 0 and delta >= 1 and 0 < rho < max(delta, math.nextafter(1.0, 2.0))):
        msg = (
            f"steps tau = {tau:g}, sigma = {sigma:g}, relax = {rho:g} do not converge: "
            f"1/tau - sigma·{norm_square:.3g} >= {beta / 2:.3g} and 0 < relax < "
            f"{max(delta, 1.0):.3g} are needed; leave them out to have them chosen"
        )
        raise ConfigError(msg)
    return Steps(tau=tau, sigma=sigma, relaxation=rho)


def _ending(n_iterations: int, stop: StopTest, *, stopped: bool) -> Ending:
    return Ending(
        n_iterations=n_iterations,
        reason="tolerance" if stopped else "limit",
        residual=stop.residual,
    )


def _lengths(step: Tensor) -> Float[Tensor, " object"]:
    length: Tensor = torch.linalg.vector_norm(step.reshape(len(step), -1), dim=1)
    return length


def _blocks(x: Tensor, duals: Sequence[Tensor]) -> list[slice]:
    widest = max(part[0].numel() for part in (x, *duals))
    return list(stack_blocks(x, samples=widest))


def primal_dual(
    primal: PrimalStep,
    terms: Sequence[StackedDualTerm],
    *,
    relaxation: float,
    start: Tensor,
    duals: Sequence[Tensor],
    stop: StopTest,
    max_iterations: int,
) -> tuple[Tensor, list[Tensor], Ending]:
    """Minimum of f(x) + Σ g_i(L_i x), f known by its primal step (Condat-Vũ).

    Objects go through an iteration a few at a time, but for the proximal operators of joint
    terms: what is held are x, the duals, and two arrays more as large as a joint dual.

    Parameters
    ----------
    start, duals : overwritten

    Returns
    -------
    x, the dual variables, and why it stopped
    """
    rho = relaxation
    x, u = start, list(duals)
    moved = torch.empty(len(x), dtype=x.dtype, device=x.device)
    stopped, done = False, 0
    while done < max_iterations and not stopped:
        ahead_of = primal.at(x)
        joint = [_ascents(term, dual, rho) for term, dual in zip(terms, u, strict=True)]
        for block in _blocks(x, u):
            pull = torch.zeros_like(x[block])
            for term, dual in zip(terms, u, strict=True):
                pull += term.operator.adjoint(dual[block])
            ahead = ahead_of(pull, block)
            beyond = ahead.mul(2).sub_(x[block])
            for term, dual, ascents in zip(terms, u, joint, strict=True):
                sigma = term.step(block, dual)
                ascent = term.operator.forward(beyond).mul(sigma).add_(dual[block])
                if ascents is None:
                    _relax(dual[block], term.prox_conjugate(ascent, sigma, block), rho)
                else:
                    ascents[block] = ascent
            step = ahead.sub_(x[block]).mul_(rho)
            x[block] += step
            moved[block] = _lengths(step)
        for term, dual, ascents in zip(terms, u, joint, strict=True):
            if ascents is not None:
                _relax(dual, term.prox_conjugate(ascents, term.sigma, ALL), rho)
        done += 1
        stopped = stop(x, moved)
    return x, u, _ending(done, stop, stopped=stopped)


def _ascents(term: StackedDualTerm, dual: Tensor, rho: float) -> Tensor | None:
    """Where the ascents of a joint term are gathered: over its dual where that is not needed."""
    if not term.joint:
        return None
    return dual if rho == 1 else torch.empty_like(dual)


def _relax(dual: Tensor, nearest: Tensor, rho: float) -> None:
    if rho == 1:
        dual.copy_(nearest)
    else:
        dual.lerp_(nearest, rho)


def forward_backward(
    gradient: Callable[[Tensor], Tensor],
    prox: Prox,
    *,
    step: float,
    lipschitz: float,
    start: Tensor,
    stop: StopTest,
    max_iterations: int,
) -> tuple[Tensor, Ending]:
    """Minimum of f(x) + g(x) by accelerated forward-backward (FISTA), restarted by gradient.

    ``prox(x, t)`` is that of t·g.

    Raises
    ------
    ConfigError
        The step exceeds 1/β.
    """
    if not 0 < step * lipschitz <= 1 + 1e-6:
        msg = f"forward-backward needs 0 < step <= 1/{lipschitz:g}, got {step:g}"
        raise ConfigError(msg)
    x = z = start
    t = 1.0
    stopped, done = False, 0
    while done < max_iterations and not stopped:
        ahead = prox(z - step * gradient(z), step)
        move = ahead - x
        if float(((z - ahead) * move).sum()) > 0:
            t = 1.0
        following = (1 + math.sqrt(1 + 4 * t * t)) / 2
        z = ahead + ((t - 1) / following) * move
        x, t = ahead, following
        done += 1
        stopped = stop(x, _lengths(move))
    return x, _ending(done, stop, stopped=stopped)


def generalised_forward_backward(
    gradient: Callable[[Tensor], Tensor],
    proxes: Sequence[Prox],
    *,
    weights: Sequence[float],
    step: float,
    lipschitz: float,
    start: Tensor,
    stop: StopTest,
    max_iterations: int,
) -> tuple[Tensor, Ending]:
    """Minimum of f(x) + Σ g_i(x), ``proxes[i](x, t)`` that of t·g_i.

    Parameters
    ----------
    weights : of the terms, positive, sum 1
    step : γ

    Raises
    ------
    ConfigError
        The step is not below 2/β, or the weights are not positive and of sum 1.
    """
    if not 0 < step * lipschitz < 2:
        msg = f"generalised forward-backward needs 0 < step < 2/{lipschitz:g}, got {step:g}"
        raise ConfigError(msg)
    if min(weights) <= 0 or abs(sum(weights) - 1) > 1e-9 or len(weights) != len(proxes):
        msg = f"{len(proxes)} terms need as many positive weights of sum 1, got {list(weights)}"
        raise ConfigError(msg)
    x, z = start, [start] * len(proxes)
    stopped, done = False, 0
    while done < max_iterations and not stopped:
        base = 2 * x - step * gradient(x)
        for i, (prox, weight) in enumerate(zip(proxes, weights, strict=True)):
            z[i] = z[i] + prox(base - z[i], step / weight) - x
        ahead = (
            sum(w * part for w, part in zip(weights[1:], z[1:], strict=True)) + weights[0] * z[0]
        )
        move = ahead - x
        x = ahead
        done += 1
        stopped = stop(x, _lengths(move))
    return x, _ending(done, stop, stopped=stopped)
