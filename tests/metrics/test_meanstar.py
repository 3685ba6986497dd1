from __future__ import annotations

import numpy as np
from gaussian_field import gaussian

from psfscale.metrics.meanstar import mean_star
from psfscale.metrics.refit import MARGIN, Refit


def at_rest(image: np.ndarray, flux: np.ndarray) -> Refit:
    n = len(image)
    return Refit(
        flux=flux,
        shift_x=np.zeros(n),
        shift_y=np.zeros(n),
        model=image,
        converged=np.ones(n, dtype=bool),
    )


def test_mean_star__of_unshifted_stars_is_the_weighted_mean_pixel_by_pixel() -> None:
    rng = np.random.default_rng(4)
    unit = gaussian(shape=(15, 15), sigma=1.5, e1=0.0, e2=0.0)
    flux = np.array([10.0, 20.0, 40.0])
    image = flux[:, None, None] * unit + rng.normal(0, 0.05, (3, 15, 15))
    weight = rng.uniform(0.5, 2.0, image.shape)
    weight[0, 4:6, 4:9] = 0
    image[0, 4:6, 4:9] = np.nan
    found = mean_star(image, weight, at_rest(flux[:, None, None] * unit, flux), oversampling=1)
    f = flux[:, None, None]
    by_hand = (weight * f * np.nan_to_num(image)).sum(0) / (weight * f**2).sum(0)
    inner = found[MARGIN:-MARGIN, MARGIN:-MARGIN]
    np.testing.assert_allclose(inner / inner.sum(), by_hand / by_hand.sum(), atol=2e-4)


def test_mean_star__registers_shifted_stars() -> None:
    rng = np.random.default_rng(9)
    shift = rng.uniform(-0.5, 0.5, (2, 30))
    image = np.stack(
        [gaussian(shape=(17, 17), sigma=1.5, e1=0.1, e2=0.0, y=y, x=x) for y, x in shift.T]
    )
    at = Refit(
        flux=np.ones(30),
        shift_y=shift[0],
        shift_x=shift[1],
        model=image,
        converged=np.ones(30, dtype=bool),
    )
    found = mean_star(image, np.ones_like(image), at, oversampling=1)
    side = 17 + 2 * MARGIN
    np.testing.assert_allclose(
        found, gaussian(shape=(side, side), sigma=1.5, e1=0.1, e2=0.0), atol=2e-5
    )


def test_mean_star__no_single_star_is_the_mean() -> None:
    narrow, wide = (gaussian(shape=(15, 15), sigma=s, e1=0.0, e2=0.0) for s in (1.3, 1.8))
    flux = np.array([1e6, 1e5, 1e5])
    image = flux[:, None, None] * np.stack([narrow, wide, wide])
    found = mean_star(image, np.ones_like(image), at_rest(image, flux), oversampling=1)
    # Far above the limit a star weighs as flux²/SNR², whatever its flux; plain inverse
    # variance would give the bright one 100 times the weight of the others.
    share = 1 / np.array([(unit**2).sum() for unit in (narrow, wide, wide)])
    evenly = np.average([narrow.max(), wide.max(), wide.max()], weights=share)
    np.testing.assert_allclose(found.max(), evenly, rtol=1e-3)
