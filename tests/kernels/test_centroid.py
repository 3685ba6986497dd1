import pytest
import torch

from psfscale.kernels.centroid import matched_width, windowed_centroid


def _gauss(n_y, n_x, cy, cx, sigma):
    y = torch.arange(n_y, dtype=torch.float64)[:, None]
    x = torch.arange(n_x, dtype=torch.float64)[None, :]
    return torch.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * sigma**2))


def test_windowed_centroid__finds_a_gaussian_between_pixels():
    stamps = torch.stack([_gauss(25, 28, 12.3, 13.6, 2.0), _gauss(25, 28, 11.1, 14.9, 2.0)])
    cy, cx = windowed_centroid(stamps, width=2.0)
    assert cy.tolist() == pytest.approx([12.3, 11.1], abs=1e-6)
    assert cx.tolist() == pytest.approx([13.6, 14.9], abs=1e-6)


def test_windowed_centroid__stays_on_the_stamp_without_flux():
    cy, cx = windowed_centroid(torch.zeros(1, 9, 8), width=2.0)
    assert (float(cy), float(cx)) == (4.0, 4.0)


def test_matched_width__is_the_width_of_a_gaussian():
    assert matched_width(_gauss(41, 41, 20, 20, 2.6), start=1.0, smallest=0.7) == pytest.approx(
        2.6, abs=1e-3
    )
