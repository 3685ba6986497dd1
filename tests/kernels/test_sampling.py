import pytest
import torch

from psfscale.kernels.sampling import AliasGram, StarSampling
from psfscale.kernels.spectral import frequency_grid

CASES = [
    ((7, 10), 3, None),
    ((9, 11), 3, 0.72),
    ((8, 7), 2, None),
    ((9, 8), 1, None),
]


def _problem(case, seed=3):
    shape, upsampling, band_limit = case
    grid = frequency_grid(shape, upsampling=upsampling, band_limit=band_limit)
    generator = torch.Generator().manual_seed(seed)

    def random(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    basis, dy, dx = random(5, 3), random(5), random(5)
    sampling = StarSampling(grid=grid, basis=basis, dy=dy, dx=dx)
    c = grid.coefficients(random(3, *grid.fine_shape))
    return grid, sampling, c, random(5, *shape), random(5) ** 2


@pytest.mark.parametrize("case", CASES)
def test_star_sampling__has_its_exact_adjoint(case):
    grid, sampling, c, stamps, _ = _problem(case)
    left = (sampling.forward(c) * stamps).sum()
    right = grid.inner(c, sampling.adjoint(stamps))
    assert abs(left - right) < 1e-10 * sampling.forward(c).norm() * stamps.norm()


@pytest.mark.parametrize("case", CASES)
def test_star_sampling__norm_bounds_the_gain(case):
    grid, sampling, c, _, _ = _problem(case)
    for _ in range(30):
        c = sampling.adjoint(sampling.forward(c))
        c = c / grid.inner(c, c).sqrt()
    assert sampling.forward(c).norm() <= sampling.norm() * (1 + 1e-12)
    assert sampling.forward(c).norm() > 0.3 * sampling.norm()


@pytest.mark.parametrize("case", CASES)
def test_alias_gram__is_the_normal_operator_of_star_sampling(case):
    grid, sampling, c, _, weight = _problem(case)
    gram = AliasGram(grid, sampling.basis, weight=weight, dy=sampling.dy, dx=sampling.dx)
    expected = sampling.adjoint(weight[:, None, None] * sampling.forward(c))
    assert torch.allclose(gram.forward(c), expected, atol=1e-11 * float(expected.abs().max()))


@pytest.mark.parametrize("case", CASES)
def test_alias_gram__norm_bounds_the_largest_eigenvalue(case):
    grid, sampling, c, _, weight = _problem(case)
    gram = AliasGram(grid, sampling.basis, weight=weight, dy=sampling.dy, dx=sampling.dx)
    for _ in range(30):
        c = gram.forward(c)
        c = c / grid.inner(c, c).sqrt()
    assert grid.inner(c, gram.adjoint(c)) <= gram.norm() * (1 + 1e-12)


def test_star_sampling__weighted_misfit_has_the_gradient_it_claims():
    grid, sampling, c, stamps, _ = _problem(CASES[1])
    weight = torch.rand(stamps.shape, generator=torch.Generator().manual_seed(8)).double()
    weight[:, 2:4, 3] = 0

    def cost(c):
        return 0.5 * (weight * (sampling.forward(c) - stamps) ** 2).sum()

    gradient = sampling.adjoint(weight * (sampling.forward(c) - stamps))
    direction = grid.coefficients(grid.image(c).roll(1, -1).flip(-2))
    step = 1e-5
    slope = (cost(c + step * direction) - cost(c - step * direction)) / (2 * step)
    assert float(slope) == pytest.approx(float(grid.inner(gradient, direction)), rel=1e-7)


@pytest.mark.parametrize("case", CASES)
def test_sampling_and_gram__take_ccds_of_unlike_star_numbers_in_one_call(case):
    parts = [_problem(case, seed) for seed in (3, 4)]
    grid, n_stars = parts[0][0], (5, 3)

    def padded(name):
        rows = [getattr(p[1], name)[:n] for p, n in zip(parts, n_stars, strict=True)]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    basis, dy, dx = (padded(name) for name in ("basis", "dy", "dx"))
    c = torch.stack([p[2] for p in parts])
    weight = torch.nn.utils.rnn.pad_sequence(
        [p[4][:n] for p, n in zip(parts, n_stars, strict=True)], batch_first=True
    )
    together = StarSampling(grid=grid, basis=basis, dy=dy, dx=dx)
    gram = AliasGram(grid, basis, weight=weight, dy=dy, dx=dx)
    stamps = together.forward(c)
    assert float(stamps[1, 3:].abs().max()) == 0
    for i, n in enumerate(n_stars):
        star = {"dy": dy[i, :n], "dx": dx[i, :n]}
        alone = StarSampling(grid=grid, basis=basis[i, :n], **star)
        assert torch.allclose(stamps[i, :n], alone.forward(c[i]), atol=1e-12)
        assert torch.allclose(together.adjoint(stamps)[i], alone.adjoint(stamps[i, :n]), atol=1e-11)
        single = AliasGram(grid, basis[i, :n], weight=weight[i, :n], **star)
        assert torch.allclose(gram.forward(c)[i], single.forward(c[i]), atol=1e-11)
        assert torch.allclose(gram.coupled(c)[i], single.coupled(c[i]), atol=1e-11)
        assert float(gram.norm()[i]) == pytest.approx(float(single.norm()))


def test_alias_gram__couples_nothing_else_but_what_the_functions_already_say():
    grid, sampling, c, _, weight = _problem(CASES[1])
    gram = AliasGram(grid, sampling.basis, weight=weight, dy=sampling.dy, dx=sampling.dx)
    scaled = sampling.basis * torch.sqrt(weight / grid.pixel_ratio)[:, None]
    own = (scaled.T @ scaled).to(c.dtype) @ c
    assert torch.allclose(gram.forward(c), own + gram.coupled(c), atol=1e-11)
