from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from psfscale.survey import Survey, load_survey

TOY = Path(__file__).parents[2] / "catalogs" / "toy.yaml"
TINY = (
    "instrument.detector.columns=128",
    "instrument.detector.rows=112",
    "simulate.size.exposures=2",
    "simulate.size.stars=4",
    "simulate.size.galaxies=3",
    "simulate.optics.pupil_pixels=128",
    "simulate.stamp=64",
    "simulate.truth.size=31",
    "simulate.stars.separation.value=18",
)


@pytest.fixture
def tiny() -> Callable[..., Survey]:
    """The toy survey with CCDs of 128 x 112 pixels and a handful of objects."""

    def make(*overrides: str) -> Survey:
        return load_survey(TOY, [*TINY, *overrides])

    return make
