"""Errors of restored galaxies: known answers."""

from __future__ import annotations

import numpy as np
import pytest

from psfscale.deconvolve.score import gaussian_window, score, unweighted_ellipticity
from psfscale.errors import InputError


def gaussian(sx, sy, side=61):
    y, x = np.mgrid[:side, :side] - side // 2
    return np.exp(-(x**2) / 2 / sx**2 - y**2 / 2 / sy**2)


def test_unweighted_ellipticity__of_gaussians_is_that_of_their_widths():
    images = np.stack([gaussian(4, 3), gaussian(3, 4), gaussian(3, 3)])
    np.testing.assert_allclose(
        unweighted_ellipticity(images), [[7 / 25, 0], [-7 / 25, 0], [0, 0]], atol=1e-10
    )
    turned = np.roll(images[:1], (2, -3), (1, 2)).transpose(0, 2, 1)
    np.testing.assert_allclose(unweighted_ellipticity(turned), [[-7 / 25, 0]], atol=1e-10)


def test_score__of_known_errors():
    truth = np.stack([gaussian(3, 3)] * 3)
    found = truth * np.array([1.1, 1.2, 1.0])[:, None, None]
    median = score(found, truth)
    assert (median.pixel, median.ellipticity) == pytest.approx((0.01, 0))
    assert score(found, truth, metric="mean").pixel == pytest.approx((0.01 + 0.04) / 3)
    # 20 log10(side · (max − min) / ‖x − t‖)
    gap = 0.1 * np.sqrt((truth[0] ** 2).sum())
    spread = 1 - truth[0].min()
    assert median.psnr == pytest.approx(20 * np.log10(61 * spread / gap))
    assert "pixel error 0.01" in str(median)


def test_score__window_looks_at_the_centre_alone():
    truth = np.stack([gaussian(3, 3)])
    found = truth.copy()
    found[0, 0, 0] += 100
    assert score(found, truth).pixel > 100
    assert score(found, truth, kernel=2).pixel < 1e-6
    window = gaussian_window((61, 61), 2)
    assert (window.max(), window[30, 30], window[30, 32]) == pytest.approx((1, 1, np.exp(-0.5)))


def test_score__refuses_stacks_that_differ():
    with pytest.raises(InputError, match="restored galaxies have shape"):
        score(np.ones((2, 5, 5)), np.ones((3, 5, 5)))
