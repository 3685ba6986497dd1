from __future__ import annotations

import numpy as np
import pytest

from psfscale.arrays import StarBatch
from psfscale.metrics.agreement import agreement, star_chi2


class Round:
    def __init__(self, width):
        self.width = width

    def predict(self, at, grid):
        y, x = np.meshgrid(*(np.arange(n) - n // 2 for n in grid.shape), indexing="ij")
        psf = np.exp(-(x**2 + y**2) / (2 * (self.width * grid.oversampling) ** 2))
        return np.broadcast_to(psf / psf.sum(), (len(at), *grid.shape))


def stars(n, *, seed=5, side=15, flux=3e3):
    rng = np.random.default_rng(seed)
    shift = rng.uniform(-0.4, 0.4, (2, n, 1, 1))
    y, x = np.mgrid[:side, :side] - side // 2
    psf = np.exp(-((x - shift[0]) ** 2 + (y - shift[1]) ** 2) / (2 * 1.6**2)) / (2 * np.pi * 1.6**2)
    image = flux * psf + rng.normal(size=(n, side, side))
    places = np.zeros(n)
    return StarBatch(image=image, weight=np.ones(image.shape), x=places, y=places)


def test_chi2__is_one_under_the_truth_and_more_under_another_width() -> None:
    batch = stars(40)
    assert star_chi2(Round(1.6), batch).mean() == pytest.approx(1, abs=0.03)
    assert agreement(Round(1.6), batch) < agreement(Round(1.7), batch) < agreement(Round(2), batch)


def test_agreement__is_not_decided_by_a_star_that_no_field_explains() -> None:
    batch = stars(12)
    batch.image[0, 2:5, 10:13] += 500
    worse = stars(12)
    for width in (1.6, 1.65):
        ratio = agreement(Round(width), batch) / agreement(Round(width), worse)
        assert ratio == pytest.approx((star_chi2(Round(width), batch)[0]) ** (1 / 12), rel=0.1)
    assert agreement(Round(1.6), batch) < agreement(Round(1.65), batch)


def test_agreement__of_no_star_is_unknown() -> None:
    batch = stars(2)
    assert np.isnan(agreement(Round(1.6), batch.select([])))
