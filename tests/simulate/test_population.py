from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats as statistics
from scipy.spatial.distance import cdist, pdist

from psfscale.errors import ConfigError
from psfscale.simulate.population import Stars, draw_galaxies, draw_stars
from psfscale.survey import Survey

Tiny = Callable[..., Survey]
ROOMY = ("instrument.detector.columns=2000", "instrument.detector.rows=1500")


def both(survey: Survey, n: int, seed: int = 0):
    recipe, detector = survey.simulate, survey.instrument.detector
    rng = np.random.default_rng(seed)
    stars = draw_stars(rng, n, recipe=recipe, detector=detector)
    return stars, draw_galaxies(rng, n, recipe=recipe, detector=detector, stars=stars)


def test_objects__keep_their_distances_and_the_margin(tiny: Tiny) -> None:
    survey = tiny(*ROOMY)
    stars, galaxies = both(survey, 200)
    star, galaxy = (np.stack([o.x, o.y], axis=1) for o in (stars, galaxies))
    assert pdist(star).min() >= 18
    assert cdist(star, galaxy).min() >= 18
    assert pdist(galaxy).min() >= 16
    for places in (star, galaxy):
        assert (places >= 12).all()
        assert (places <= np.array([2000, 1500]) - 1 - 12).all()


def test_fluxes__follow_the_power_law(tiny: Tiny) -> None:
    survey = tiny(*ROOMY, "simulate.stars.slope.value=2", "simulate.stars.separation.value=0")
    stars, _ = both(survey, 500)
    low, high = 6000, 500000
    law = lambda flux: (1 / low - 1 / flux) / (1 / low - 1 / high)  # noqa: E731
    # n = 500, seed 0: a wrong slope of 1.8 gives p < 1e-3
    assert statistics.kstest(stars.flux, law).pvalue > 0.01


def test_fluxes__of_slope_one_are_even_in_their_logarithm(tiny: Tiny) -> None:
    survey = tiny(*ROOMY, "simulate.stars.slope.value=1", "simulate.stars.separation.value=0")
    stars, _ = both(survey, 500)
    law = statistics.uniform(np.log(6000), np.log(500000 / 6000))
    assert statistics.kstest(np.log(stars.flux), law.cdf).pvalue > 0.01


def test_galaxies__stay_inside_the_bounds_of_the_recipe(tiny: Tiny) -> None:
    survey = tiny(
        *ROOMY, "simulate.galaxies.ellipticity.value=0.6", "simulate.stars.separation.value=0"
    )
    _, galaxies = both(survey, 500)
    modulus = np.hypot(galaxies.e1, galaxies.e2)
    assert modulus.max() == pytest.approx(0.8)  # the largest allowed
    assert np.median(modulus) > 0.4
    assert galaxies.half_light_radius.max() <= 0.8
    assert np.median(galaxies.half_light_radius) == pytest.approx(0.3, rel=0.1)
    assert set(galaxies.sersic) == {1.0, 2.5}
    assert np.mean(galaxies.sersic == 1.0) == pytest.approx(0.7, abs=0.07)  # 3 sigma, n = 500


def test_stars__too_many_for_the_ccd_are_a_clear_error(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match="no room for 60 stars on a CCD of 128 x 112 pixels"):
        both(tiny(), 60)


def test_galaxies__too_many_between_the_stars_are_a_clear_error(tiny: Tiny) -> None:
    survey = tiny("simulate.galaxies.separation.value=0")
    recipe, detector = survey.simulate, survey.instrument.detector
    side = np.arange(12.0, 130, 15)
    x, y = (axis.ravel() for axis in np.meshgrid(side, side))
    stars = Stars(x=x, y=y, flux=np.ones(len(x)), spectrum=np.full(len(x), ""))
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match=r"no room for 1 galaxies .* lower the separations"):
        draw_galaxies(rng, 1, recipe=recipe, detector=detector, stars=stars)


def test_margin__wider_than_the_ccd_is_a_clear_error(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match="margin of 60 pixels leaves no room"):
        both(tiny("simulate.margin.value=60"), 1)
