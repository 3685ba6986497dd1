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

from psfscale.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from psfscale.kernels.operator import LinearOperator

    Prox = Callable[[Tensor, float], Tensor]

__all__ = [
    "DualTerm",
    "Ending",
    "Steps",
    "StopTest",
    "forward_backward",
    "generalised_forward_backward",
    "primal_dual",
    "primal_dual_steps",
]


class StopTest(Protocol):
    """Decides after each iteration whether the solution is near enough."""

    @property
    def residual(self) -> float:
        """What it last measured, in its own terms."""
        ...

    def __call__(self, x: Tensor, step: Tensor) -> bool:
        """Whether to stop at `x`, reached by `step` from the one before."""
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
class DualTerm:
    """One term g(L x) of a cost, known by L and the proximal operator of t·g*."""

    operator: LinearOperator
    prox_conjugate: Callable[[Tensor, float], Tensor]


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


def _dual_step(term: DualTerm, u: Tensor, ahead: Tensor, *, sigma: float, rho: float) -> Tensor:
    ascent = u.add(term.operator.forward(ahead), alpha=sigma)
    nearest = term.prox_conjugate(ascent, sigma)
    return nearest if rho == 1 else u.lerp(nearest, rho)


def primal_dual(
    gradient: Callable[[Tensor], Tensor],
    terms: Sequence[DualTerm],
    *,
    project: Callable[[Tensor], Tensor],
    steps: Steps,
    start: Tensor,
    duals: Sequence[Tensor],
    stop: StopTest,
    max_iterations: int,
) -> tuple[Tensor, list[Tensor], Ending]:
    """Minimum of f(x) + Σ g_i(L_i x) over the set that `project` projects on (Condat-Vũ).

    Returns
    -------
    x, the dual variables, and why it stopped
    """
    tau, sigma, rho = steps.tau, steps.sigma, steps.relaxation
    x, u = start, list(duals)
    stopped, done = False, 0
    while done < max_iterations and not stopped:
        pull = gradient(x)
        for term, dual in zip(terms, u, strict=True):
            pull = pull.add(term.operator.adjoint(dual))
        ahead = project(x.sub(pull, alpha=tau))
        del pull  # a stack less in memory, as below
        beyond = ahead.mul(2).sub_(x)
        for i, term in enumerate(terms):
            u[i] = _dual_step(term, u[i], beyond, sigma=sigma, rho=rho)
        del beyond
        step = ahead.sub_(x).mul_(rho)
        x = x + step
        done += 1
        stopped = stop(x, step)
    return x, u, _ending(done, stop, stopped=stopped)


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
        stopped = stop(x, move)
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
        stopped = stop(x, move)
    return x, _ending(done, stop, stopped=stopped)
