import numpy as np
import pytest
import torch

from psfscale.kernels.spectral import frequency_grid
from psfscale.models.dictionary import dictionary
from psfscale.models.sprite.data import Stamps, StampTerm, alias_blocks
from psfscale.models.sprite.settings import SPRITESettings
from psfscale.models.sprite.sparse import coefficient_noise

CASES = [((8, 8), 2, None), ((7, 9), 3, None), ((9, 8), 3, 1.2), ((8, 9), 4, None)]


def _term(case, *, uniform):
    shape, upsampling, band_limit = case
    grid = frequency_grid(shape, upsampling=upsampling, band_limit=band_limit)
    g = torch.Generator().manual_seed(3)
    image = torch.randn(2, 3, *shape, generator=g, dtype=torch.float64)
    weight = torch.rand(2, 3, *((1, 1) if uniform else shape), generator=g, dtype=torch.float64)
    weight = (weight + 0.2).expand(2, 3, *shape).clone()
    if not uniform:
        weight[0, 1, 2:4] = 0
    stamps = Stamps(image=image, weight=weight)
    amplitude, dy, dx = torch.rand(3, 2, 3, generator=g, dtype=torch.float64) + 0.5
    term = StampTerm.at(
        stamps, grid=grid, amplitude=amplitude, dy=dy, dx=dx, uniform=stamps.uniform
    )
    assert stamps.uniform == uniform
    return term, grid, g


def _random(grid, g, n=2):
    fine = torch.randn(n, *grid.fine_shape, generator=g, dtype=torch.float64)
    return grid.coefficients(fine)


@pytest.mark.parametrize("case", CASES)
def test_stamp_term__has_its_exact_adjoint(case):
    term, grid, g = _term(case, uniform=True)
    c, y = _random(grid, g), torch.randn(2, 3, *case[0], generator=g, dtype=torch.float64)
    left, right = (term.forward(c) * y).sum(), grid.inner(c, term.adjoint(y))
    assert abs(left - right) < 1e-10 * term.forward(c).norm() * y.norm()


@pytest.mark.parametrize("case", CASES)
def test_stamp_term__blocks_are_the_normal_operator_of_uniform_stamps(case):
    term, grid, g = _term(case, uniform=True)
    c = _random(grid, g)
    direct = term.adjoint(term.stamps.weight * term.forward(c))
    assert torch.allclose(term.normal(c), direct, atol=1e-12 * float(direct.abs().max()))


@pytest.mark.parametrize("case", CASES)
def test_stamp_term__bound_is_above_the_normal_operator(case):
    term, grid, g = _term(case, uniform=False)
    for _ in range(5):
        c = _random(grid, g)
        assert grid.inner(c, term.bound(c)) > grid.inner(c, term.normal(c))


def test_stamp_term__gradient_is_that_of_its_cost_with_weights_and_masks():
    term, grid, g = _term(CASES[2], uniform=False)
    c, d = _random(grid, g), _random(grid, g)

    def cost(x):
        return 0.5 * (term.stamps.weight * (term.stamps.image - term.forward(x)) ** 2).sum()

    slope = grid.inner(d, term.normal(c) - term.right())
    step = 1e-5
    numeric = (cost(c + step * d) - cost(c - step * d)) / (2 * step)
    assert float(slope) == pytest.approx(float(numeric), rel=1e-7)


@pytest.mark.parametrize("case", CASES)
def test_alias_blocks__keep_every_coefficient(case):
    grid = frequency_grid(case[0], upsampling=case[1], band_limit=case[2])
    c = _random(grid, torch.Generator().manual_seed(1))
    blocks = alias_blocks(grid)
    assert torch.equal(blocks.scatter(blocks.gather(c)), c)


@pytest.mark.parametrize("propagated", [True, False])
def test_coefficient_noise__is_that_of_simulated_stamps(propagated):
    term, grid, g = _term(((8, 9), 2, None), uniform=False)
    filters = dictionary(grid, SPRITESettings(transform="biorthogonal", n_scales=1)).filters
    n = 1500
    noise = torch.randn(n, *term.stamps.image.shape, generator=g, dtype=torch.float64)
    pulled = term.adjoint(term.stamps.weight.sqrt() * noise)
    seen = grid.image(pulled[:, :, None] * filters).std(0)
    ours = coefficient_noise(term, filters, propagated=propagated)
    if propagated:
        # 1500 draws know σ to 1.8 %.
        assert float(((seen / ours - 1) ** 2).mean().sqrt()) < 0.025
    assert torch.allclose((seen**2).mean((2, 3)), (ours**2).mean((2, 3)), rtol=0.02)


def test_stamp_term__noise_has_the_covariance_of_the_normal_operator():
    term, grid, g = _term(((8, 9), 2, None), uniform=True)
    probe = _random(grid, g)
    draws = torch.randn(2000, *grid.fine_shape, generator=g, dtype=torch.float64)
    values = [float(grid.inner(probe[:1], term.noise(white)[:1])) for white in draws]
    expected = float(grid.inner(probe[:1], term.normal(probe)[:1]))
    # 2000 draws know a variance to 3.2 %.
    assert np.var(values) == pytest.approx(expected, rel=0.1)
