import pytest
import torch

from psfscale.kernels.optimize.prox import (
    conjugate_prox,
    project_box,
    project_negative,
    project_positive,
    project_simplex,
    shrink,
    shrink_conjugate,
    soft_threshold,
)

X = torch.linspace(-3, 3, 41, dtype=torch.float64)


VARIANCE = torch.logspace(-3, 3, 41, dtype=torch.float64).flip(0)


@pytest.mark.parametrize(
    ("prox", "conjugate"),
    [
        (lambda x, t: soft_threshold(x, 0.7 * t), lambda x, _: project_box(x, 0.7)),
        (lambda x, _: project_positive(x), lambda x, _: project_negative(x)),
        (
            lambda x, t: shrink(x, t, variance=VARIANCE),
            lambda x, t: shrink_conjugate(x, t, variance=VARIANCE),
        ),
    ],
    ids=["soft_threshold", "positive", "shrink"],
)
@pytest.mark.parametrize("step", [0.3, 1.0, 2.5])
def test_prox__obeys_the_moreau_identity(prox, conjugate, step):
    assert torch.allclose(conjugate_prox(prox, X, step), conjugate(X, step), atol=1e-14)
    assert torch.allclose(prox(X, 1.0) + conjugate(X, 1.0), X, atol=1e-14)


def test_shrink__is_where_its_cost_is_flat():
    x = shrink(X, 0.6, variance=VARIANCE)
    assert torch.allclose((x - X) + 0.6 * x / VARIANCE, torch.zeros_like(X), atol=1e-12)


def test_soft_threshold__minimises_what_it_says():
    grid = torch.linspace(-4, 4, 80001, dtype=torch.float64)
    for value in (-2.0, -0.3, 0.5, 1.7):
        cost = 0.5 * (grid - value) ** 2 + 0.8 * grid.abs()
        assert float(soft_threshold(torch.tensor(value), 0.8)) == pytest.approx(
            float(grid[cost.argmin()]), abs=2e-4
        )


def test_project_simplex__is_the_nearest_image_of_unit_sum():
    images = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    near = project_simplex(images)
    assert (near >= 0).all()
    torch.testing.assert_close(near.sum((1, 2)), torch.ones(5, dtype=torch.float64))
    # nearest: ⟨x − p, q − p⟩ ≤ 0 for every point q of the simplex, so for every corner
    excess = (images - near).flatten(1)
    corner = excess - (excess * near.flatten(1)).sum(1, keepdim=True)
    assert float(corner.max()) < 1e-12
    torch.testing.assert_close(project_simplex(near), near, atol=1e-14, rtol=0)
