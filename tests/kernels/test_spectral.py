import math

import pytest
import torch

from psfscale.errors import ConfigError
from psfscale.kernels.spectral import frequency_grid

GRIDS = [
    {"shape": (7, 10), "upsampling": 3, "band_limit": None},
    {"shape": (9, 9), "upsampling": 3, "band_limit": 0.72},
    {"shape": (8, 11), "upsampling": 2, "band_limit": None},
    {"shape": (10, 7), "upsampling": 1, "band_limit": 0.4},
]


def _grid(case):
    return frequency_grid(
        case["shape"], upsampling=case["upsampling"], band_limit=case["band_limit"]
    )


def _random_coefficients(grid, *batch, seed=1):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(*batch, *grid.fine_shape, generator=generator, dtype=torch.float64)
    return grid.coefficients(image)


@pytest.mark.parametrize("case", GRIDS)
def test_image__is_the_inverse_and_adjoint_of_coefficients(case):
    grid = _grid(case)
    c = _random_coefficients(grid, 2)
    assert torch.allclose(grid.coefficients(grid.image(c)), c, atol=1e-13)
    image = torch.randn(2, *grid.fine_shape, generator=torch.Generator().manual_seed(2)).double()
    left = (grid.image(c) * image).sum()
    right = grid.inner(c, grid.coefficients(image))
    assert abs(left - right) < 1e-10 * grid.inner(c, c).sqrt() * image.norm()


@pytest.mark.parametrize("case", GRIDS)
def test_sample__takes_every_upsampled_pixel_of_the_image(case):
    grid = _grid(case)
    c = _random_coefficients(grid, 3)
    fine = tuple(n * case["upsampling"] for n in grid.shape)
    every = grid.image(c, fine)[:, :: case["upsampling"], :: case["upsampling"]]
    assert torch.allclose(grid.sample(c), every, atol=1e-12)
    assert torch.allclose(grid.coefficients(grid.image(c, fine)), c, atol=1e-12)


@pytest.mark.parametrize("case", GRIDS)
def test_sample__has_its_exact_adjoint(case):
    grid = _grid(case)
    c = _random_coefficients(grid, 3)
    stamp = torch.randn(3, *grid.shape, generator=torch.Generator().manual_seed(4)).double()
    left = (grid.sample(c) * stamp).sum()
    right = grid.inner(c, grid.sample_adjoint(stamp))
    assert abs(left - right) < 1e-10 * grid.sample(c).norm() * stamp.norm()


def test_phases__move_a_gaussian_by_a_part_of_a_pixel():
    grid = frequency_grid((21, 24), upsampling=2)
    ny, nx = grid.fine_shape
    y = torch.arange(ny, dtype=torch.float64)[:, None] * 21 / ny
    x = torch.arange(nx, dtype=torch.float64)[None, :] * 24 / nx

    def gauss(cy, cx):
        return torch.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 4)

    c = grid.coefficients(gauss(10.0, 12.0))
    moved = grid.image(c * grid.phases(torch.tensor(0.3).double(), torch.tensor(-0.7).double()))
    assert torch.allclose(moved, gauss(10.3, 11.3), atol=1e-7)


def test_fraction__is_the_area_of_the_disc_in_the_plane():
    grid = frequency_grid((42, 42), upsampling=3, band_limit=0.72)
    assert grid.fraction * grid.pixel_ratio == pytest.approx(math.pi * 0.72**2, rel=0.02)
    assert grid.pixel_ratio < 4 * 0.8**2


def test_frequency_grid__refuses_what_is_not_positive():
    with pytest.raises(ConfigError, match="positive stamp, upsampling and band limit"):
        frequency_grid((8, 8), upsampling=0)
