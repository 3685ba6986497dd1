"""Random generators of the simulator: each is seeded by what it draws, never by order."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a generator draws; no two share their numbers."""

    OPTICS = 1
    EXPOSURE_OPTICS = 2
    STARS = 3
    GALAXIES = 4
    NOISE = 5
    COSMIC_RAYS = 6
    COLUMNS = 7
    CATALOGUE = 8


def generator(seed: int, stream: Stream, *unit: int) -> np.random.Generator:
    """The generator of one stream of one unit (nothing, exposure, CCD or both)."""
    return np.random.default_rng([seed, int(stream), *unit])
