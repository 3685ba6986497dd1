"""Sub-pixel phases against the upsampling that they carry."""

from __future__ import annotations

import numpy as np
import pytest
from moffat_stars import moffat_stars

from psfscale.config import Quality
from psfscale.models.rca.settings import RCASettings
from psfscale.quality import StampMeasures, carried_upsampling, centroids, fit_doubts
from psfscale.quality.phases import separation


@pytest.mark.parametrize("upsampling", [2, 3, 4])
def test_separation__is_one_for_even_phases_and_zero_for_fewer_than_terms(upsampling) -> None:
    assert separation(np.arange(upsampling) / upsampling, upsampling) == pytest.approx(1)
    assert separation(np.arange(upsampling - 1) / upsampling, upsampling) == pytest.approx(
        0, abs=1e-12
    )
    assert separation(np.full(30, 0.3), upsampling) == pytest.approx(0, abs=1e-12)


def test_carried__is_what_both_axes_separate() -> None:
    rng = np.random.default_rng(1)
    free, one, two = rng.random(40), np.full(40, 5.25), np.arange(40) % 2 / 2
    assert carried_upsampling(free, rng.random(40), wanted=4) == 4
    assert carried_upsampling(free, one, wanted=3) == 1
    assert carried_upsampling(two, free, wanted=3) == 2
    assert carried_upsampling(one[:3], one[:3], wanted=3) == 3, "too few to judge"


def test_carried__noise_of_centroids_does_not_hide_one_phase() -> None:
    stars = moffat_stars(seed=2, phase=0.25, fwhm=2.0)
    assert carried_upsampling(*centroids(stars.image, stars.weight), wanted=2) == 1


def test_phases__of_one_kind_are_a_doubt_that_says_what_the_fit_is_held_to() -> None:
    stars = moffat_stars(seed=3, phase=0.0)
    (doubt,) = fit_doubts(
        StampMeasures.of(stars.image, stars.weight),
        used=np.ones(60, bool),
        chi2=np.ones(60),
        limits=Quality(),
        upsampling=3,
    )
    assert doubt.check == "phases"
    assert "for upsampling 3; the fit is held to the CCD's own sampling" in doubt.message


def test_settings__held_to_phases_keep_their_grid() -> None:
    settings = RCASettings(upsampling=1)
    held = settings.held_to(1)
    assert (settings.n_aliases, held.n_aliases) == (2, 1)
    assert held.band_limit == 0.5
    assert held.fine_upsampling == settings.fine_upsampling == 2
    assert RCASettings(upsampling=3, band_limit=0.9).n_aliases == 2
    assert RCASettings(upsampling=3, band_limit=0.4).n_aliases == 1
