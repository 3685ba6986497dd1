import math

import pytest
import torch

from psfscale.kernels.frames.starlet import starlet
from psfscale.kernels.spectral import frequency_grid

GRIDS = [((7, 10), 3, None), ((9, 11), 3, 0.72), ((16, 9), 2, None)]


def _case(case):
    shape, upsampling, band_limit = case
    grid = frequency_grid(shape, upsampling=upsampling, band_limit=band_limit)
    image = torch.randn(2, *grid.fine_shape, generator=torch.Generator().manual_seed(5)).double()
    return grid, grid.coefficients(image)


@pytest.mark.parametrize("case", GRIDS)
def test_starlet__bands_sum_to_the_image(case):
    grid, c = _case(case)
    bands = starlet(grid, n_scales=3).forward(c)
    assert torch.allclose(bands.sum(-3), grid.image(c), atol=1e-12)


@pytest.mark.parametrize("case", GRIDS)
def test_starlet__has_its_exact_adjoint(case):
    grid, c = _case(case)
    bank = starlet(grid, n_scales=3)
    bands = bank.forward(c)
    other = torch.randn(bands.shape, generator=torch.Generator().manual_seed(6)).double()
    left, right = (bands * other).sum(), grid.inner(c, bank.adjoint(other))
    assert abs(left - right) < 1e-10 * bands.norm() * other.norm()


def test_starlet__norms_are_those_of_the_b3_spline():
    # 0.8908, 0.2007, 0.0856 and 0.1235 for two scales: Starck & Murtagh, and rca's own filters.
    two = starlet(frequency_grid((243, 243), upsampling=1), n_scales=2).noise_norms
    assert two.tolist() == pytest.approx([0.8908, 0.2007, 0.1235], abs=2e-4)


def test_starlet__matches_the_spatial_a_trous_transform():
    grid = frequency_grid((27, 25), upsampling=1)
    image = torch.zeros(27, 25, dtype=torch.float64)
    image[13, 12] = 1
    kernel = torch.tensor([1.0, 4, 6, 4, 1], dtype=torch.float64) / 16
    smooth, bands = image, []
    for scale in range(2):
        previous = smooth
        for axis in (0, 1):
            smooth = sum(w * smooth.roll((k - 2) * 2**scale, axis) for k, w in enumerate(kernel))
        bands.append(previous - smooth)
    ours = starlet(grid, n_scales=2).forward(grid.coefficients(image))
    assert torch.allclose(ours, torch.stack([*bands, smooth]), atol=1e-12)


def test_starlet__norm_is_the_largest_gain():
    grid = frequency_grid((9, 11), upsampling=2)
    bank = starlet(grid, n_scales=3)
    constant = grid.coefficients(torch.ones(1, *grid.fine_shape, dtype=torch.float64))
    gain = bank.forward(constant).norm() / math.sqrt(math.prod(grid.fine_shape))
    assert gain == pytest.approx(1.0)
    assert bank.norm() == pytest.approx(1.0)
