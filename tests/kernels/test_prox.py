import pytest
import torch

from psfscale.kernels.prox import conjugate_prox, project_box, project_positive, soft_threshold

X = torch.linspace(-3, 3, 41, dtype=torch.float64)


@pytest.mark.parametrize(
    ("prox", "conjugate"),
    [
        (lambda x, t: soft_threshold(x, 0.7 * t), lambda x, _: project_box(x, 0.7)),
        (lambda x, _: project_positive(x), lambda x, _: torch.clamp(x, max=0)),
    ],
    ids=["soft_threshold", "positive"],
)
@pytest.mark.parametrize("step", [0.3, 1.0, 2.5])
def test_prox__obeys_the_moreau_identity(prox, conjugate, step):
    assert torch.allclose(conjugate_prox(prox, X, step), conjugate(X, step), atol=1e-14)
    assert torch.allclose(prox(X, 1.0) + conjugate(X, 1.0), X, atol=1e-14)


def test_soft_threshold__minimises_what_it_says():
    grid = torch.linspace(-4, 4, 80001, dtype=torch.float64)
    for value in (-2.0, -0.3, 0.5, 1.7):
        cost = 0.5 * (grid - value) ** 2 + 0.8 * grid.abs()
        assert float(soft_threshold(torch.tensor(value), 0.8)) == pytest.approx(
            float(grid[cost.argmin()]), abs=2e-4
        )
