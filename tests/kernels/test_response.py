from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf

from psfscale.errors import InputError
from psfscale.kernels.response import (
    binned_pixel,
    filter_taps,
    gaussian_blur,
    pixel_matrix,
    square_pixel,
)

LIMIT = 1.07


def test_binned_pixel__is_the_mean_of_its_samples() -> None:
    taps = filter_taps(binned_pixel(3), samples=3, reach=2, band_limit=LIMIT)
    np.testing.assert_allclose(taps, [0, 1 / 3, 1 / 3, 1 / 3, 0], atol=1e-9)


def test_square_pixel__integrates_what_the_optics_pass() -> None:
    # A Gaussian of this width has 2e-5 of its spectrum beyond the band limit.
    sigma, samples, reach = 0.7, 3, 9
    taps = filter_taps(square_pixel, samples=samples, reach=reach, band_limit=LIMIT)
    x = np.arange(-reach, reach + 1) / samples
    for centre in (0.0, 0.21):
        value = taps @ np.exp(-((x - centre) ** 2) / (2 * sigma**2))
        edges = (np.array([-0.5, 0.5]) - centre) / (sigma * np.sqrt(2))
        exact = sigma * np.sqrt(np.pi / 2) * np.diff(erf(edges))[0]
        assert value == pytest.approx(exact, abs=2e-4)


def test_gaussian_blur__widens_a_gaussian() -> None:
    sigma, blur, samples, reach = 0.7, 0.4, 4, 12
    taps = filter_taps(gaussian_blur(blur), samples=samples, reach=reach, band_limit=LIMIT)
    x = np.arange(-reach, reach + 1) / samples
    wide = np.hypot(sigma, blur)
    value = taps @ np.exp(-(x**2) / (2 * sigma**2))
    assert value == pytest.approx(sigma / wide, rel=2e-3)


def test_filter__keeps_the_flux() -> None:
    taps = filter_taps(square_pixel, samples=3, reach=6, band_limit=LIMIT)
    assert taps.sum() == pytest.approx(1, abs=1e-4)


def test_pixel_matrix__strides_over_an_even_number_of_samples() -> None:
    matrix = pixel_matrix(np.array([1.0, 2.0, 1.0]), n_pixels=4, stride=2)
    assert matrix.shape == (4, 10)
    assert matrix[3].tolist() == [0, 0, 0, 0, 0, 0, 1, 2, 1, 0]


def test_filter__refuses_coarse_samples() -> None:
    with pytest.raises(InputError, match=r"too few .* use 3"):
        filter_taps(square_pixel, samples=2, reach=3, band_limit=LIMIT)
