"""Three splittings: one minimum, refused steps, honest reasons."""

from __future__ import annotations

import pytest
import torch

from psfscale.errors import ConfigError
from psfscale.kernels import blocks
from psfscale.kernels.optimize.prox import project_box, project_positive, soft_threshold
from psfscale.kernels.optimize.splitting import (
    GradientStep,
    StackedDualTerm,
    forward_backward,
    generalised_forward_backward,
    primal_dual,
    primal_dual_steps,
)

GENERATOR = torch.Generator().manual_seed(7)
ROOT = torch.randn(12, 8, generator=GENERATOR, dtype=torch.float64)
MATRIX = ROOT.T @ ROOT + 0.1 * torch.eye(8, dtype=torch.float64)
RIGHT = 5 * torch.randn(8, generator=GENERATOR, dtype=torch.float64)
BETA = float(torch.linalg.matrix_norm(MATRIX, ord=2))
ZERO = torch.zeros(8, dtype=torch.float64)
LAMBDA = 0.4


class _Twice:
    """L = 2, so that the norm of the operator matters."""

    def forward(self, x):
        return 2 * x

    def adjoint(self, y):
        return 2 * y

    def norm(self):
        return 2.0


class _Small:
    def __init__(self, tolerance):
        self.tolerance, self.residual = tolerance, float("inf")

    def __call__(self, x, moved):
        self.residual = float(moved.norm())
        return self.residual <= self.tolerance


def gradient(x):
    return MATRIX @ x - RIGHT


def by_primal_dual(n=20000, *, joint=False, **options):
    steps = primal_dual_steps(lipschitz=BETA, norm_square=4.0, **options)
    term = StackedDualTerm(
        operator=_Twice(),
        prox_conjugate=lambda u, *_: project_box(u, LAMBDA / 2),
        sigma=steps.sigma,
        joint=joint,
    )
    x, _, convergence = primal_dual(
        GradientStep(gradient=gradient, project=project_positive, tau=steps.tau),
        [term],
        relaxation=steps.relaxation,
        start=ZERO.clone(),
        duals=[ZERO.clone()],
        stop=_Small(1e-13),
        max_iterations=n,
    )
    return x, convergence


def by_forward_backward(step=1 / BETA, n=20000):
    # of λ|x| and x ≥ 0 together
    return forward_backward(
        gradient,
        lambda v, t: project_positive(v - LAMBDA * t),
        step=step,
        lipschitz=BETA,
        start=ZERO,
        stop=_Small(1e-13),
        max_iterations=n,
    )


def by_generalised(step=1 / BETA, weights=(0.3, 0.7), n=40000):
    return generalised_forward_backward(
        gradient,
        [lambda v, _: project_positive(v), lambda v, t: soft_threshold(v, LAMBDA * t)],
        weights=weights,
        step=step,
        lipschitz=BETA,
        start=ZERO,
        stop=_Small(1e-13),
        max_iterations=n,
    )


@pytest.mark.parametrize("solver", [by_primal_dual, by_forward_backward, by_generalised])
def test_splitting__meets_the_optimality_conditions(solver):
    x, convergence = solver()
    assert convergence.converged
    assert (x > -1e-9).all()
    inside = x > 1e-6
    assert 1 < int(inside.sum()) < 8
    pull = gradient(x) + LAMBDA
    assert float(pull[inside].abs().max()) < 1e-8
    assert (pull > -1e-8).all()


@pytest.mark.parametrize("relaxation", [1.0, 0.7])
def test_primal_dual__takes_objects_together_where_a_term_is_joint(monkeypatch, relaxation):
    alone, _ = by_primal_dual(relaxation=relaxation)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 3 * 8)
    joint, convergence = by_primal_dual(joint=True, relaxation=relaxation)
    assert convergence.converged
    torch.testing.assert_close(joint, alone, atol=1e-12, rtol=0)


@pytest.mark.parametrize("solver", [by_primal_dual, by_forward_backward, by_generalised])
def test_splitting__says_that_it_stopped_at_its_limit(solver):
    _, convergence = solver(n=3)
    assert (convergence.n_iterations, convergence.reason) == (3, "limit")


@pytest.mark.parametrize(
    "options", [{"tau": 0.9 / BETA}, {"sigma": 0.3 * BETA / 4}, {"relaxation": 0.7}]
)
def test_primal_dual__takes_given_steps_and_completes_them(options):
    x, convergence = by_primal_dual(**options)
    assert convergence.converged
    torch.testing.assert_close(x, by_forward_backward()[0], atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"tau": 3 / BETA},
        {"tau": -1.0},
        {"sigma": BETA, "tau": 1 / BETA},
        {"relaxation": 2.5},
    ],
)
def test_primal_dual_steps__that_do_not_converge_are_refused(options):
    with pytest.raises(ConfigError, match="do not converge"):
        primal_dual_steps(lipschitz=BETA, norm_square=4.0, **options)


def test_primal_dual_steps__are_the_published_programs_if_asked_for():
    steps = primal_dual_steps(lipschitz=1, norm_square=1, tau=0.5, sigma=0.5, relaxation=0.8)
    assert (steps.tau, steps.sigma, steps.relaxation) == (0.5, 0.5, 0.8)


def test_forward_backward__refuses_a_long_step():
    with pytest.raises(ConfigError, match="forward-backward needs"):
        by_forward_backward(step=1.5 / BETA)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"step": 2 / BETA}, "needs 0 < step < 2"), ({"weights": (0.5, 0.6)}, "positive weights")],
)
def test_generalised_forward_backward__refuses_wrong_steps_and_weights(options, message):
    with pytest.raises(ConfigError, match=message):
        by_generalised(**options)
