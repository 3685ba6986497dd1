import torch

from psfscale.kernels.prox import project_box
from psfscale.kernels.solvers import DualTerm, condat_vu, conjugate_gradient

GENERATOR = torch.Generator().manual_seed(7)
ROOT = torch.randn(12, 8, generator=GENERATOR, dtype=torch.float64)
MATRIX = ROOT.T @ ROOT + 0.1 * torch.eye(8, dtype=torch.float64)
RIGHT = 5 * torch.randn(8, generator=GENERATOR, dtype=torch.float64)


def _inner(a, b):
    return (a * b).sum()


class _Identity:
    def forward(self, x):
        return x

    def adjoint(self, y):
        return y

    def norm(self):
        return 1.0


def test_conjugate_gradient__solves_and_says_so():
    x, convergence = conjugate_gradient(
        lambda v: MATRIX @ v,
        RIGHT,
        start=torch.zeros(8, dtype=torch.float64),
        precondition=lambda r: r / MATRIX.diag(),
        inner=_inner,
        tolerance=1e-10,
        max_iterations=50,
    )
    assert torch.allclose(MATRIX @ x, RIGHT, atol=1e-8)
    assert convergence.converged


def test_conjugate_gradient__says_when_it_stopped_at_its_limit():
    _, convergence = conjugate_gradient(
        lambda v: MATRIX @ v,
        RIGHT,
        start=torch.zeros(8, dtype=torch.float64),
        precondition=lambda r: r,
        inner=_inner,
        tolerance=1e-10,
        max_iterations=2,
    )
    assert (convergence.n_iterations, convergence.reason) == (2, "limit")


def test_condat_vu__meets_the_optimality_conditions_of_the_lasso_and_positivity():
    terms = [
        DualTerm(operator=_Identity(), prox_conjugate=lambda u, _: project_box(u, 0.4)),
        DualTerm(operator=_Identity(), prox_conjugate=lambda u, _: torch.clamp(u, max=0)),
    ]
    zero = torch.zeros(8, dtype=torch.float64)
    x, duals, convergence = condat_vu(
        lambda v: MATRIX @ v - RIGHT,
        terms,
        lipschitz=float(torch.linalg.matrix_norm(MATRIX, ord=2)),
        start=zero,
        duals=[zero, zero],
        inner=_inner,
        tolerance=1e-10,
        max_iterations=20000,
    )
    assert convergence.converged
    assert (x > -1e-9).all()
    gradient = MATRIX @ x - RIGHT + 0.4
    inside = x > 1e-6
    assert 1 < int(inside.sum()) < 8
    assert float(gradient[inside].abs().max()) < 1e-7
    assert (gradient > -1e-7).all()
    assert torch.allclose(MATRIX @ x - RIGHT + sum(duals), zero, atol=1e-7)
