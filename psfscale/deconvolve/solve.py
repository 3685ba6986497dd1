"""A problem and its priors through one of the three splittings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from psfscale.deconvolve.convergence import CostWindow, RemainingDistance
from psfscale.deconvolve.descent import primal_step
from psfscale.deconvolve.priors import Free, Positive, Sparse
from psfscale.errors import ConfigError
from psfscale.kernels.optimize.prox import project_positive
from psfscale.kernels.optimize.splitting import (
    GradientStep,
    StackedDualTerm,
    forward_backward,
    generalised_forward_backward,
    primal_dual,
    primal_dual_steps,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Bool, Float
    from torch import Tensor

    from psfscale.deconvolve.priors import Penalty
    from psfscale.deconvolve.problem import DataTerm
    from psfscale.deconvolve.settings import DeconvolutionSettings
    from psfscale.kernels.optimize.splitting import Ending, PrimalStep

__all__ = ["Solved", "solve"]

PARITY_RELAX, PARITY_STEP = 0.8, 0.5
"""ρ, and τ = σ, of the published program."""

JOINT_STEP, OWN_STEP, POSITIVE_STEP = 1.5, 2.0, 0.5
"""Dual steps of low rank, sparsity and positivity [mean curvature of the data term]."""

RELAX, RELAX_LIMIT = 1.4, 1.5
"""ρ in the metric of the data, and its condition there with pixels of any weight."""

POSITIVITY_SHARE = 0.1
"""Weight of positivity in the generalised forward-backward splitting."""

DYKSTRA_ROUNDS = 4
"""Alternations of two proximal operators to get that of their sum."""


@dataclass(frozen=True, kw_only=True)
class Solved:
    """A solution, and how it was reached.

    Attributes
    ----------
    x : (object, y, x) [noise σ]
    duals : dual variables, in the order of the priors; empty where the splitting has none
    cost : at each evaluation; the last one is that of `x`
    convergence : of each pass
    converged : (object,) after the last pass
    """

    x: Float[Tensor, "object y x"]
    duals: tuple[Tensor, ...]
    cost: tuple[float, ...]
    convergence: tuple[Ending, ...]
    converged: Bool[Tensor, " object"]


class _Stop:
    """Both tests: the distance to go decides, or in parity the costs, which are always recorded."""

    def __init__(self, cost: Callable[[Tensor], float], settings: DeconvolutionSettings) -> None:
        window = settings.cost_window
        interval = (1 if settings.parity else 0) if window is None else window
        self.costs = CostWindow(cost, tolerance=settings.convergence, interval=interval)
        self._tolerance, self._parity = settings.convergence, settings.parity
        self.distance = RemainingDistance(settings.convergence)

    def fresh(self) -> None:
        """Begin another pass."""
        self.distance = RemainingDistance(self._tolerance)

    @property
    def residual(self) -> float:
        """Of the test that decides."""
        return self.costs.residual if self._parity else self.distance.residual

    def __call__(self, x: Tensor, moved: Tensor) -> bool:
        """Whether to stop."""
        by_cost = self.costs(x, moved)
        return by_cost if self._parity else self.distance(x, moved)

    def converged(self, n: int) -> Tensor:
        """Which galaxies are done."""
        return self.costs.converged(n) if self._parity else self.distance.converged(n)


class _Solver:
    def __init__(
        self, data: DataTerm, priors: Sequence[Penalty], settings: DeconvolutionSettings
    ) -> None:
        self.data, self.priors, self.settings = data, priors, settings
        self.stop = _Stop(self.cost, settings)
        self.duals: list[Tensor] = []

    def cost(self, x: Tensor) -> float:
        """Of data and priors at x."""
        return self.data.cost(x) + sum(prior.cost(x) for prior in self.priors)

    def project(self, x: Tensor) -> Tensor:
        """On what is allowed."""
        return project_positive(x) if self.settings.positivity else x

    def run(self, x: Tensor) -> tuple[Tensor, Ending]:
        """One pass from x on."""
        self.stop.fresh()
        if self.settings.opt_type == "condat":
            return self._primal_dual(x)
        if self.settings.opt_type == "fwbw":
            return forward_backward(
                self.data.gradient,
                self._joint_prox,
                step=1 / self.data.lipschitz,
                lipschitz=self.data.lipschitz,
                start=x,
                stop=self.stop,
                max_iterations=self.settings.n_iter,
            )
        return self._generalised(x)

    def _primal_dual(self, x: Tensor) -> tuple[Tensor, Ending]:
        """In the metric of the data where that is a filter and no step is prescribed."""
        primal, terms, relaxation = self._given_steps() if self._plain else self._own_steps()
        if not self.duals:
            value = 1.0 if self.settings.parity else 0.0
            self.duals = [torch.full_like(term.operator.forward(x), value) for term in terms]
        x, self.duals, convergence = primal_dual(
            primal,
            terms,
            relaxation=relaxation,
            start=x,
            duals=self.duals,
            stop=self.stop,
            max_iterations=self.settings.n_iter,
        )
        return self.project(x), convergence

    @property
    def _plain(self) -> bool:
        settings = self.settings
        return bool(
            settings.parity
            or settings.condat_tau
            or settings.condat_sigma
            or settings.grad_type in {"psf_unknown", "none"}
            or settings.boundary == "zero"
        )

    def _given_steps(self) -> tuple[PrimalStep, list[StackedDualTerm], float]:
        """One step for all detail: the published ones, given ones, or as long as converges."""
        settings = self.settings
        parity = settings.parity
        steps = primal_dual_steps(
            lipschitz=self.data.lipschitz,
            norm_square=sum(float(prior.operator.norm()) ** 2 for prior in self.priors),
            tau=settings.condat_tau or (PARITY_STEP if parity else None),
            sigma=settings.condat_sigma or (PARITY_STEP if parity else None),
            relaxation=settings.relax or (PARITY_RELAX if parity else None),
        )
        primal = GradientStep(gradient=self.data.gradient, project=self.project, tau=steps.tau)
        return primal, [_term(prior, steps.sigma) for prior in self.priors], steps.relaxation

    def _own_steps(self) -> tuple[PrimalStep, list[StackedDualTerm], float]:
        """Dual steps in units of each galaxy's mean curvature, the primal one in that metric."""
        settings = self.settings
        curvature = self.data.blur.psf.square().sum((-2, -1))
        terms = [
            _term(
                prior, JOINT_STEP * float(curvature.mean()) if prior.joint else OWN_STEP * curvature
            )
            for prior in self.priors
        ]
        if settings.positivity or not terms:
            terms.append(
                _term(Positive() if settings.positivity else Free(), POSITIVE_STEP * curvature)
            )
        damping = torch.zeros_like(curvature)
        for term in terms:
            damping = damping + term.sigma * float(term.operator.norm()) ** 2
        return primal_step(self.data, damping), terms, self._relaxation()

    def _relaxation(self) -> float:
        given = self.settings.relax
        if given is not None and given >= RELAX_LIMIT:
            msg = (
                f"relax = {given:g} does not converge: it must be below {RELAX_LIMIT:g}; leave it "
                "out to have it chosen"
            )
            raise ConfigError(msg)
        return given or RELAX

    def _generalised(self, x: Tensor) -> tuple[Tensor, Ending]:
        proxes: list[Callable[[Tensor, float], Tensor]] = [prior.prox for prior in self.priors]
        if self.settings.positivity or not proxes:
            proxes = [lambda v, _: self.project(v), *proxes]
            others = len(proxes) - 1
            share = POSITIVITY_SHARE if others else 1.0
            weights = [share, *[(1 - share) / max(others, 1)] * others]
        else:
            weights = [1 / len(proxes)] * len(proxes)
        x, convergence = generalised_forward_backward(
            self.data.gradient,
            proxes,
            weights=weights,
            step=1 / self.data.lipschitz,
            lipschitz=self.data.lipschitz,
            start=x,
            stop=self.stop,
            max_iterations=self.settings.n_iter,
        )
        return self.project(x), convergence

    def _joint_prox(self, v: Tensor, step: float) -> Tensor:
        """Proximal operator of all priors and positivity together."""
        sparse = _sparse(self.priors)
        others = [prior for prior in self.priors if prior not in sparse]

        def local(x: Tensor) -> Tensor:
            """Of what acts galaxy by galaxy."""
            if not sparse:
                return self.project(x)
            act = sparse[0].positive_prox if self.settings.positivity else sparse[0].prox
            return act(x, step)

        if not others:
            return local(v)
        if not sparse and not self.settings.positivity:
            return others[0].prox(v, step)
        # Dykstra: p and q remember what each of the two took away.
        x, p, q = v, torch.zeros_like(v), torch.zeros_like(v)
        for _ in range(DYKSTRA_ROUNDS):
            y = others[0].prox(x + p, step)
            p = x + p - y
            x = local(y + q)
            q = y + q - x
        return x


def _term(prior: Penalty, sigma: float | Tensor) -> StackedDualTerm:
    return StackedDualTerm(
        operator=prior.operator,
        prox_conjugate=prior.prox_conjugate,
        sigma=sigma,
        joint=prior.joint,
    )


def _sparse(priors: Sequence[Penalty]) -> list[Sparse]:
    return [prior for prior in priors if isinstance(prior, Sparse)]


def solve(
    data: DataTerm,
    priors: Sequence[Penalty],
    *,
    settings: DeconvolutionSettings,
    start: Float[Tensor, "object y x"],
) -> Solved:
    """The minimum of data and priors, reweighted as often as the settings say.

    Raises
    ------
    ConfigError
        The steps that the settings give do not converge.
    """
    solver = _Solver(data, priors, settings)
    x, convergence = solver.run(start)
    passes = [convergence]
    sparse = _sparse(priors)
    for _ in range(settings.n_reweights if sparse else 0):
        sparse[0].reweight(x)
        x, convergence = solver.run(x)
        passes.append(convergence)
    costs = solver.stop.costs.costs
    if not settings.parity or not costs:
        costs = [*costs, solver.cost(x)]
    return Solved(
        x=x,
        duals=tuple(solver.duals[: len(priors)]),
        cost=tuple(costs),
        convergence=tuple(passes),
        converged=solver.stop.converged(len(x)),
    )
