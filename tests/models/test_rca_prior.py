"""RCA's priors: what counts as scatter of the stars, and what as variation of the field."""

import numpy as np
import pytest
import torch

from psfscale.kernels.spectral import frequency_grid
from psfscale.models.rca_prior import StarScatter
from psfscale.models.rca_stars import StarValues

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
