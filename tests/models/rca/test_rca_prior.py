"""RCA's priors: what counts as scatter of the stars, and what as variation of the field."""

import numpy as np
import pytest
import torch

from psfscale.kernels.spectral import frequency_grid
from psfscale.models.rca.prior import RadialVariance, StarScatter
from psfscale.models.rca.stars import StarValues

N = 400


def scatter_of(amplitude, *, rows, noise=0.0):
    """Scatter found for stars that miss the field by `amplitude` σ of one pattern."""
    torch.manual_seed(2)
    grid = frequency_grid((15, 15), upsampling=1)
    y, x = (torch.fft.fftfreq(15, 1 / 15, dtype=torch.float64) for _ in range(2))
    image = torch.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / 4)[None]
    pattern = grid.coefficients(image / image.norm())
    values = StarValues(
        flux=torch.full((N,), 50.0, dtype=torch.float64),
        dy=7 + torch.rand(N, dtype=torch.float64) - 0.5,
        dx=7 + torch.rand(N, dtype=torch.float64) - 0.5,
    )
    stamps = grid.sample(pattern * grid.phases(values.dy, values.dx))
    stamps = stamps / stamps.flatten(1).norm(dim=1)[:, None, None]
    residual = amplitude[:, None, None] * stamps + noise * torch.randn_like(stamps)
    scatter = StarScatter(
        residual=residual,
        share=torch.ones_like(residual),
        weight=torch.ones(N, dtype=torch.float64),
        values=values,
        grid=grid,
        rows=rows,
    )
    return float(scatter(pattern)[0])


def constant_rows():
    return torch.full((N, 1), N**-0.5, dtype=torch.float64)


def test_star_scatter__is_the_stars_own_variance():
    torch.manual_seed(1)
    amplitude = 3 * torch.randn(N, dtype=torch.float64)
    # a variance from 400 stars is known to sqrt(2/400) = 7 %; three of them
    assert scatter_of(amplitude, rows=constant_rows(), noise=1.0) == pytest.approx(10, rel=0.21)


def test_star_scatter__is_at_least_the_noise():
    amplitude = torch.zeros(N, dtype=torch.float64)
    assert scatter_of(amplitude, rows=constant_rows(), noise=0.3) == 1.0


def test_star_scatter__leaves_out_what_the_field_can_follow():
    slope = torch.linspace(-1, 1, N, dtype=torch.float64)
    rows = torch.stack([torch.ones(N, dtype=torch.float64), slope], 1)
    rows = rows / rows.norm(dim=0)
    assert scatter_of(20 * slope, rows=rows) == 1.0
    assert scatter_of(20 * slope, rows=constant_rows()) == pytest.approx(400 / 3, rel=0.02)
    assert np.isfinite(scatter_of(20 * slope, rows=rows))


def test_star_scatter__is_that_of_the_stamps_one_by_one():
    # whole and masked stars, and one that is not there, of two CCDs
    generator = torch.Generator().manual_seed(4)

    def random(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    grid = frequency_grid((9, 8), upsampling=3)
    share = torch.ones(2, 5, 9, 8, dtype=torch.float64)
    share[0, 1, 2:5, 3] = 0
    share[1, 3] = torch.rand(9, 8, generator=generator, dtype=torch.float64)
    weight = random(2, 5) ** 2
    weight[1, 4] = share[1, 4] = 0
    values = StarValues(flux=random(2, 5) ** 2, dy=random(2, 5), dx=random(2, 5))
    residual = 60 * share * random(2, 5, 9, 8)
    rows = torch.linalg.qr(random(2, 5, 2)).Q
    patterns = grid.coefficients(random(2, 3, *grid.fine_shape))
    found = StarScatter(
        residual=residual, share=share, weight=weight, values=values, grid=grid, rows=rows
    )(patterns)
    for i in range(2):
        phases = grid.phases(values.dy[i], values.dx[i])
        stamps = torch.stack([grid.sample(pattern * phases) for pattern in patterns[i]], 1)
        size = (share[i][:, None] * stamps**2).sum((2, 3)).clamp(min=1e-300).sqrt()
        z = weight[i].sqrt()[:, None] * (residual[i][:, None] * stamps).sum((2, 3)) / size
        free = z - rows[i] @ (rows[i].T @ z)
        importance = weight[i] * values.flux[i] ** 2
        left = (importance * (1 - (rows[i] ** 2).sum(1))).sum()
        expected = ((importance[:, None] * free**2).sum(0) / left).clamp(min=1)
        assert expected.min() > 1
        assert torch.allclose(found[i], expected, rtol=1e-9)


@pytest.mark.parametrize("band_limit", [None, 0.3])
def test_radial_variance__is_that_of_coefficients_whatever_the_band_limit(band_limit):
    grid = frequency_grid((60, 60), upsampling=2, band_limit=band_limit)
    generator = torch.Generator().manual_seed(5)
    white = torch.randn(40, *grid.fine_shape, generator=generator, dtype=torch.float64)
    variance = RadialVariance(grid, dtype=white.dtype, device=white.device)
    seen = 2 * grid.image(grid.coefficients(white))
    # noise of variance 1 and a signal of 3; 40 images, 5 % a ring of tens of pixels
    assert float(variance(seen).mean()) == pytest.approx(3, rel=0.03)
    shrunk = grid.image(grid.coefficients(white / 100))
    assert float(variance(shrunk).max()) == pytest.approx(0.003)
