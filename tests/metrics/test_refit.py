from __future__ import annotations

import numpy as np
import pytest
from gaussian_field import gaussian

from psfscale.metrics.refit import MARGIN, refit, resampling, sampling, separable, shifted

FINE = 3
SIGMA = 1.6


def fine_psf(side: int, sigma: float = SIGMA) -> np.ndarray:
    n = (side + 2 * MARGIN) * FINE
    return gaussian(shape=(n, n), sigma=sigma * FINE, e1=0.1, e2=-0.2)[None]


def star(side: int, y: float, x: float, flux: float = 500.0) -> np.ndarray:
    return flux * gaussian(shape=(side, side), sigma=SIGMA, e1=0.1, e2=-0.2, y=y, x=x)[None]


@pytest.mark.parametrize("side", [24, 25])
def test_shifted__is_the_analytic_star(side: int) -> None:
    y, x = np.array([0.37]), np.array([-0.81])
    drawn = shifted(fine_psf(side), y, x, shape=(side, side), oversampling=FINE)
    np.testing.assert_allclose(drawn, star(side, 0.37, -0.81, 1.0), atol=1e-9)


def test_sampling__derivative_matches_finite_differences() -> None:
    shift, step = np.array([0.0, 0.2, -0.45]), 1e-4
    size = {"n": 7, "n_fine": 21, "oversampling": FINE}
    _, slope = sampling(shift, **size)
    above, below = sampling(shift + step, **size)[0], sampling(shift - step, **size)[0]
    np.testing.assert_allclose(slope, (above - below) / (2 * step), atol=5e-6)


def test_resampling__weighted_sums_of_a_residual_do_not_depend_on_the_grid() -> None:
    # The property the star's moments rest on: a smooth weight integrates the interpolated
    # residual as it sums the pixels.
    side, shift = 33, np.array([0.3])
    residual = np.zeros((1, side, side))
    residual[0, 12:21, 12:21] = np.random.default_rng(5).normal(size=(9, 9))
    n = side * FINE
    matrix = resampling(shift, n=side, n_fine=n, oversampling=FINE)
    fine = separable(matrix, residual, matrix) / FINE**2
    native = gaussian(shape=(side, side), sigma=1.2, e1=0.0, e2=0.0, y=0.3, x=0.3)
    weight = gaussian(shape=(n, n), sigma=1.2 * FINE, e1=0.0, e2=0.0) * FINE**2
    # 1e-3: what a Gaussian of 1.2 pixels holds beyond the pixels' Nyquist frequency.
    np.testing.assert_allclose((fine * weight).sum(), (residual * native).sum(), rtol=1e-3)


@pytest.mark.parametrize(("y", "x"), [(0.0, 0.0), (0.45, -0.3), (-1.7, 1.2)])
def test_refit__finds_flux_and_centroid(y: float, x: float) -> None:
    image = star(25, y, x)
    found = refit(image, np.ones_like(image), fine_psf(25), oversampling=FINE)
    assert found.converged.all()
    np.testing.assert_allclose([found.shift_y[0], found.shift_x[0]], [y, x], atol=1e-4)
    np.testing.assert_allclose(found.flux, 500.0, rtol=1e-6)
    np.testing.assert_allclose(found.model, image, atol=0.02)


def test_refit__centroid_errors_are_those_the_noise_allows() -> None:
    n, noise = 200, 2.0
    rng = np.random.default_rng(11)
    y, x = rng.uniform(-0.5, 0.5, (2, n))
    clean = np.concatenate([star(25, *at) for at in zip(y, x, strict=True)])
    image = clean + rng.normal(0, noise, clean.shape)
    found = refit(image, np.full_like(image, noise**-2), fine_psf(25), oversampling=FINE)
    assert found.converged.all()
    slope = (star(25, 1e-4, 0.0) - star(25, -1e-4, 0.0)) / 2e-4
    # Cramér-Rao bound of the centroid; the rms of 200 has a spread of 5 %, 4 of it allowed.
    bound = noise / np.sqrt((slope**2).sum())
    assert np.std(found.shift_y - y) == pytest.approx(bound, rel=0.2)


def test_refit__masked_pixels_are_not_read() -> None:
    image = np.repeat(star(25, 0.2, 0.1), 3, axis=0)
    weight = np.ones_like(image)
    weight[:, 9:11, 13:16] = 0
    image[1][weight[1] == 0] = -1e30
    image[2][weight[2] == 0] = np.nan
    found = refit(image, weight, fine_psf(25), oversampling=FINE)
    assert found.converged.all()
    assert np.ptp(found.flux) == np.ptp(found.shift_x) == 0


def test_refit__stars_without_pixels_or_flux_do_not_converge() -> None:
    image = np.concatenate([star(25, 0.0, 0.0)] * 4)
    image[1], image[3] = 0.0, -image[3]
    weight = np.ones_like(image)
    weight[2] = 0
    found = refit(image, weight, fine_psf(25), oversampling=FINE)
    assert found.converged.tolist() == [True, False, False, False]
    assert np.isnan(found.flux).tolist() == [False, False, True, False]
