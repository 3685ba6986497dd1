import torch

from psfscale.kernels.optimize.prox import project_box
from psfscale.kernels.optimize.solvers import DualTerm, condat_vu, conjugate_gradient

GENERATOR = torch.Generator().manual_seed(7)
ROOT = torch.randn(12, 8, generator=GENERATOR, dtype=torch.float64)
MATRIX = ROOT.T @ ROOT + 0.1 * torch.eye(8, dtype=torch.float64)
RIGHT = 5 * torch.randn(8, generator=GENERATOR, dtype=torch.float64)


def _inner(a, b):
    return (a * b).sum(-1)


class _Identity:
    def forward(self, x):
        return x

    def adjoint(self, y):
        return y

    def norm(self):
        return 1.0


def _solve(matrix, right, *, tolerance=1e-10, max_iterations=50, start=None):
    """Solution of matrix x = right."""
    return conjugate_gradient(
        lambda v: (matrix @ v[..., None])[..., 0],
        right,
        start=torch.zeros_like(right) if start is None else start,
        precondition=lambda r: r / torch.diagonal(matrix, dim1=-2, dim2=-1),
        inner=_inner,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )


def test_conjugate_gradient__solves_and_says_so():
    x, convergence = _solve(MATRIX, RIGHT)
    assert torch.allclose(MATRIX @ x, RIGHT, atol=1e-8)
    assert bool(convergence.converged)


def test_conjugate_gradient__says_when_it_stopped_at_its_limit():
    _, convergence = _solve(MATRIX, RIGHT, max_iterations=2)
    assert (int(convergence.n_iterations), bool(convergence.converged)) == (2, False)


def test_conjugate_gradient__solves_a_batch_as_its_systems_alone():
    # of very different difficulty: one is solved at the start, one not within the limit
    easy = torch.eye(8, dtype=torch.float64) + 0.01 * MATRIX
    matrices = torch.stack([MATRIX, easy, MATRIX])
    right = torch.stack([0 * RIGHT, RIGHT, 3 * RIGHT.flip(0)])
    together, convergence = _solve(matrices, right, tolerance=1e-3, max_iterations=7)
    assert convergence.n_iterations[0] == 0
    assert convergence.converged.tolist() == [True, True, False]
    for i in range(3):
        alone, single = _solve(matrices[i], right[i], tolerance=1e-3, max_iterations=7)
        assert torch.allclose(together[i], alone, rtol=1e-10, atol=1e-12)
        assert convergence.n_iterations[i] == single.n_iterations


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
    assert bool(convergence.converged)
    assert (x > -1e-9).all()
    gradient = MATRIX @ x - RIGHT + 0.4
    inside = x > 1e-6
    assert 1 < int(inside.sum()) < 8
    assert float(gradient[inside].abs().max()) < 1e-7
    assert (gradient > -1e-7).all()
    assert torch.allclose(MATRIX @ x - RIGHT + sum(duals), zero, atol=1e-7)


def test_condat_vu__solves_a_batch_as_its_systems_alone():
    def lasso(right):
        return condat_vu(
            lambda v: v @ MATRIX - right,
            [DualTerm(operator=_Identity(), prox_conjugate=lambda u, _: project_box(u, 0.4))],
            lipschitz=float(torch.linalg.matrix_norm(MATRIX, ord=2)),
            start=torch.zeros_like(right),
            duals=[torch.zeros_like(right)],
            inner=_inner,
            tolerance=1e-6,
            max_iterations=20000,
        )

    right = torch.stack([RIGHT, 0.1 * RIGHT.flip(0), 0 * RIGHT])
    x, _, together = lasso(right)
    assert together.n_iterations.unique().numel() == 3
    for i in range(3):
        one, _, alone = lasso(right[i])
        assert torch.allclose(x[i], one, atol=1e-12)
        assert together.n_iterations[i] == alone.n_iterations
