"""Each check trips on its case and not on clean stars."""

from __future__ import annotations

import numpy as np
import pytest
from moffat_stars import moffat_stars

from psfscale.config import Quality
from psfscale.quality import StampMeasures, fit_doubts, outside_doubt, position_doubt

LIMITS = Quality()


def doubts(image, weight, *, used=None, chi2=None, limits=LIMITS, upsampling=1) -> dict[str, str]:
    n = len(image)
    found = fit_doubts(
        StampMeasures.of(image, weight),
        used=np.ones(n, bool) if used is None else used,
        chi2=np.ones(n) if chi2 is None else chi2,
        limits=limits,
        upsampling=upsampling,
    )
    return {doubt.check: doubt.message for doubt in found}


CLEAN = [
    {},
    {"fwhm": 1.6},
    {"n": 8},
    {"side": 15, "fwhm": 5.0},
    {"side": 21, "fwhm": 5.0, "snr": (100, 3000)},
    {"snr": (50, 50)},
    {"side": 15, "fwhm": 5.0, "snr": (500, 500)},
    {"snr": (8, 12)},
    {"noise": 0.02},
]


@pytest.mark.parametrize("case", CLEAN, ids=str)
def test_checks__pass_clean_stars_of_every_kind(case) -> None:
    stars = moffat_stars(seed=1, **case)
    measures = StampMeasures.of(stars.image, stars.weight)
    assert doubts(stars.image, stars.weight, upsampling=3 if len(stars.x) > 20 else 1) == {}
    assert position_doubt(measures, stars.x, stars.y, LIMITS) is None


def test_sky__that_was_left_in_is_told_from_wings() -> None:
    stars = moffat_stars(seed=2)
    found = doubts(stars.image + 1000, stars.weight)
    assert list(found) == ["sky"]
    assert (
        "times its noise, whatever the star's flux (limit 0.5): is the sky subtracted?"
        in found["sky"]
    )
    assert "sky" in doubts(stars.image - 10, stars.weight), "subtracted twice, one sigma too much"
    alike = moffat_stars(seed=2, snr=(50, 50))
    assert "sky" in doubts(alike.image + 1000, alike.weight), "stars of one flux"


@pytest.mark.parametrize("power", [-1, -0.5, 0.0])
def test_weights__that_are_variances_rms_or_ones_are_doubted(power) -> None:
    stars = moffat_stars(seed=3)
    found = doubts(stars.image, stars.weight**power)
    assert list(found) == ["weight_factor"]
    assert "are the weights inverse variances" in found["weight_factor"]


def test_starless__stamps_of_swapped_positions_or_of_a_constant_are_doubted() -> None:
    stars = moffat_stars(seed=4)
    noise = np.random.default_rng(4).normal(0, 10, stars.image.shape).astype("f4")
    assert list(doubts(noise, stars.weight)) == ["starless_fraction"]
    constant = doubts(np.full_like(stars.image, 7.0), stars.weight, chi2=np.zeros(60))
    assert {"starless_fraction", "chi2_minimum"} <= set(constant)


def test_starless__half_of_the_stamps_may_be_empty() -> None:
    stars = moffat_stars(seed=4, snr=(30, 300))
    image = stars.image.copy()
    image[:25] = np.random.default_rng(4).normal(0, 10, image[:25].shape)
    assert "starless_fraction" not in doubts(image, stars.weight)
    image[25:35] = image[:10]
    assert "starless_fraction" in doubts(image, stars.weight)


def test_fit__that_clips_most_stars_or_misses_them_is_doubted() -> None:
    stars = moffat_stars(seed=5)
    used = np.arange(60) < 3
    found = doubts(stars.image, stars.weight, used=used)
    assert found == {
        "clipped_fraction": "95% of 60 stars were clipped from the fit (limit 50%): are they stars?"
    }
    assert list(doubts(stars.image, stars.weight, chi2=np.full(60, 152.0))) == ["chi2_maximum"]
    assert list(doubts(stars.image, stars.weight, chi2=np.full(60, 1e-3))) == ["chi2_minimum"]


def test_position__off_by_one_asks_for_the_origin() -> None:
    stars = moffat_stars(seed=6)
    shifted = np.roll(stars.image, (-1, -1), axis=(1, 2))
    doubt = position_doubt(StampMeasures.of(shifted, stars.weight), stars.x, stars.y, LIMITS)
    assert doubt is not None
    assert "by -1.0" in doubt.message
    assert "is the origin of the catalogue 1 or 0" in doubt.message


@pytest.mark.parametrize("case", [{}, {"fwhm": 1.6}, {"n": 12}, {"snr": (15, 60)}], ids=str)
def test_position__of_swapped_columns_is_told_by_the_phases(case) -> None:
    stars = moffat_stars(seed=9, **case)
    measures = StampMeasures.of(stars.image, stars.weight)
    doubt = position_doubt(measures, stars.y, stars.x, LIMITS)
    assert doubt is not None
    assert "are x and y swapped" in doubt.message
    whole = np.rint([stars.x, stars.y])
    assert position_doubt(measures, *whole, LIMITS) is None, "rounded positions are not swapped"


def test_outside__names_the_share_of_objects_off_the_ccd() -> None:
    assert outside_doubt(3, 97, LIMITS) is None
    doubt = outside_doubt(60, 40, LIMITS)
    assert doubt is not None
    assert "60 of 100 objects of the catalogue lie outside the CCD" in doubt.message


def test_limits__of_null_are_not_checked() -> None:
    stars = moffat_stars(seed=7)
    free = Quality(sky=None, weight_factor=None, starless_fraction=None, phases=False)
    empty = np.full_like(stars.image, 1000.0)
    assert doubts(empty, stars.weight, limits=free, upsampling=3) == {}


def test_measures__read_no_masked_pixel_and_none_of_a_star_without_pixels() -> None:
    stars = moffat_stars(seed=8)
    image, weight = stars.image.copy(), stars.weight.copy()
    weight[:, :4] = 0
    image[:, :4] = 1e6
    weight[5] = 0
    measures = StampMeasures.of(image, weight)
    assert np.isnan(measures.border[5])
    assert np.isnan(measures.significance[5])
    assert np.nanmedian(np.abs(measures.border)) < 5
    assert doubts(image, weight) == {}
