from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from psfscale.simulate.detector import MaskBit, cosmic_rays, dead_columns, read_out, variance
from psfscale.survey import Survey

Tiny = Callable[..., Survey]
CLEAN = ("simulate.defects.cosmic_rays.value=0", "simulate.defects.masked_columns=0")


def read(survey: Survey, expected: np.ndarray, ccd: int = 1, exposure: int = 0):
    return read_out(
        expected,
        recipe=survey.simulate,
        detector=survey.instrument.detector,
        seed=7,
        exposure=exposure,
        ccd=ccd,
    )


def test_empty_image__has_the_level_and_the_noise_that_the_weight_states(tiny: Tiny) -> None:
    survey = tiny(*CLEAN)
    detector = survey.instrument.detector
    image, mask = read(survey, np.zeros((400, 500)))
    assert not mask.any()
    weight = detector.gain**2 / variance(survey.simulate, detector)
    # n = 2e5 pixels: the mean is known to 1 / sqrt(n) sigma, the variance to sqrt(2 / n)
    assert (image.mean() - 102 / 3.48) * np.sqrt(weight) == pytest.approx(0, abs=5 / np.sqrt(2e5))
    assert image.var() * weight == pytest.approx(1, abs=5 * np.sqrt(2 / 2e5))


def test_light__adds_its_own_poisson_noise(tiny: Tiny) -> None:
    survey = tiny(*CLEAN)
    gain = survey.instrument.detector.gain
    image, _ = read(survey, np.full((400, 500), 900.0))
    variance_expected = (900 + 102 + 4.4**2) / gain**2
    assert image.var() == pytest.approx(variance_expected, rel=5 * np.sqrt(2 / 2e5))


def test_full_well__clips_and_is_flagged(tiny: Tiny) -> None:
    expected = np.zeros((50, 60))
    expected[10, 20] = 300000
    image, mask = read(tiny(*CLEAN), expected)
    assert mask[10, 20] == MaskBit.SATURATED
    assert np.count_nonzero(mask) == 1
    assert image.max() == pytest.approx(200000 / 3.48)


def test_dead_columns__read_zero_are_flagged_and_belong_to_the_ccd(tiny: Tiny) -> None:
    survey = tiny("simulate.defects.cosmic_rays.value=0", "simulate.defects.masked_columns=3")
    first, second, other = (
        read(survey, np.zeros((112, 128)), ccd=ccd, exposure=exposure)
        for ccd, exposure in ((1, 0), (1, 1), (2, 0))
    )
    columns = dead_columns(survey.simulate.defects, survey.instrument.detector, seed=7, ccd=1)
    assert len(columns) == 3
    image, mask = first
    assert (image[:, columns] == 0).all()
    np.testing.assert_array_equal(np.flatnonzero(mask.all(axis=0)), columns)
    np.testing.assert_array_equal(mask, second[1])
    assert (mask != other[1]).any()


def test_cosmic_rays__hit_at_the_stated_rate_and_length(tiny: Tiny) -> None:
    survey = tiny("simulate.defects.track_length.value=6", "simulate.defects.cosmic_rays.value=0.5")
    detector, recipe = survey.instrument.detector, survey.simulate.defects
    rng = np.random.default_rng(1)
    y, _, charge = cosmic_rays(rng, (1000, 1000), recipe, detector, 560.5)
    expected = 0.5 * 560.5 * 1.2**2  # hits on 1.44 cm²: 404
    n_hits = len(np.unique(charge))  # each has its own charge
    assert n_hits == pytest.approx(expected, abs=4 * np.sqrt(expected))
    # a straight track crosses between 0.7 and 1 pixels a pixel of length, and its first
    assert 1 + 0.6 * 6 < len(y) / n_hits < 1 + 1.1 * 6
    assert np.median(charge) == pytest.approx(1500, rel=0.2)


def test_cosmic_rays__are_all_flagged(tiny: Tiny) -> None:
    survey = tiny("simulate.defects.masked_columns=0", "simulate.defects.track_charge.value=20000")
    image, mask = read(survey, np.zeros((300, 300)))
    struck = (mask & MaskBit.COSMIC_RAY) > 0
    assert struck.any()
    sky, sigma = 102 / 3.48, np.sqrt(102 + 4.4**2) / 3.48
    assert (image[struck] > sky + 10 * sigma).all()
    assert (image[~struck] < sky + 6 * sigma).all()
