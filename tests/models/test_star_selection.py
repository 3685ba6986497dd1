"""The settings that RCA and SPRITE share."""

from __future__ import annotations

import pytest

from psfscale.models.rca.settings import RCASettings
from psfscale.models.sprite.settings import SpriteFieldSettings
from psfscale.models.star_selection import StarSelection, SuperResolution

SHARED = sorted(StarSelection.model_fields | SuperResolution.model_fields)


@pytest.mark.parametrize("settings", [RCASettings, SpriteFieldSettings])
@pytest.mark.parametrize("name", SHARED)
def test_star_selection__means_the_same_in_both_models(settings, name):
    field = settings.model_fields[name]
    assert field.description
    assert field.metadata == RCASettings.model_fields[name].metadata


@pytest.mark.parametrize("settings", [RCASettings, SpriteFieldSettings])
@pytest.mark.parametrize(
    ("name", "value"), [("max_shift", 0), ("clip", 0), ("min_snr", -1), ("min_stars", 0)]
)
def test_star_selection__refuses_what_selects_no_star(settings, name, value):
    with pytest.raises(ValueError, match=name):
        settings(**{name: value})


def test_star_selection__each_model_has_its_own_least_signal_to_noise():
    assert (RCASettings().min_snr, RCASettings().min_stars) == (5, 6)
    assert (SpriteFieldSettings().min_snr, SpriteFieldSettings().min_stars) == (10, 3)
