"""From expected electrons to what a CCD reads out: noise, hits, full well, dead columns."""

from __future__ import annotations

from enum import IntFlag
from typing import TYPE_CHECKING

import numpy as np

from psfscale.simulate.seeds import Stream, generator

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

    from psfscale.survey.instrument import Detector
    from psfscale.survey.simulation import DefectRecipe, SkyRecipe

_CHARGE_SCATTER = 0.5
"""rms of the natural logarithm of a hit's charge in a pixel."""
_STEP = 0.5
"""Step along a track [pixel], short enough to visit every pixel on it."""


class MaskBit(IntFlag):
    """Bits of the mask plane; any of them makes a pixel bad."""

    COSMIC_RAY = 1
    DEAD_COLUMN = 2
    SATURATED = 4


def variance(recipe: SkyRecipe, detector: Detector) -> float:
    """Noise of an empty pixel, squared [electron²]: sky and readout."""
    return float(recipe.sky + detector.read_noise**2)


def read_out(
    expected: Float[np.ndarray, "y x"],
    *,
    recipe: SkyRecipe,
    detector: Detector,
    seed: int,
    exposure: int,
    ccd: int,
) -> tuple[Float[np.ndarray, "y x"], UInt8[np.ndarray, "y x"]]:
    """A noisy image and its mask.

    Parameters
    ----------
    expected : (y, x) [electron], the objects without the sky
    recipe, detector : of the survey
    seed, exposure, ccd : what the random numbers are drawn for

    Returns
    -------
    image : (y, x) [ADU], float32, sky included, 0 in dead columns
    mask : (y, x) bits of `MaskBit`
    """
    noise = generator(seed, Stream.NOISE, exposure, ccd)
    electrons = noise.poisson(np.maximum(expected + recipe.sky, 0)).astype(np.float64)
    mask = np.zeros(expected.shape, np.uint8)
    hits = generator(seed, Stream.COSMIC_RAYS, exposure, ccd)
    y, x, charge = cosmic_rays(
        hits, expected.shape, recipe.defects, detector, recipe.pointing.exposure_time
    )
    np.add.at(electrons, (y, x), charge)
    mask[y, x] |= np.uint8(MaskBit.COSMIC_RAY)
    electrons += detector.read_noise * noise.normal(size=expected.shape)
    if detector.saturation is not None:
        full = electrons >= detector.saturation
        electrons[full] = detector.saturation
        mask[full] |= np.uint8(MaskBit.SATURATED)
    dead = dead_columns(recipe.defects, detector, seed=seed, ccd=ccd)
    electrons[:, dead] = 0
    mask[:, dead] |= np.uint8(MaskBit.DEAD_COLUMN)
    return (electrons / detector.gain).astype(np.float32), mask


def cosmic_rays(
    rng: np.random.Generator,
    shape: tuple[int, int],
    recipe: DefectRecipe,
    detector: Detector,
    exposure_time: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and charges [electron] of the pixels that straight tracks cross."""
    area = shape[0] * shape[1] * (detector.pixel_size * 1e-4) ** 2
    n = int(rng.poisson(recipe.cosmic_rays * area * exposure_time))
    start = rng.uniform(-0.5, np.array(shape) - 0.5, size=(n, 2))
    angle = rng.uniform(0, 2 * np.pi, size=n)
    length = rng.exponential(recipe.track_length, size=n)
    charge = recipe.track_charge * np.exp(_CHARGE_SCATTER * rng.normal(size=n))
    steps = (length / _STEP).astype(int) + 1
    track = np.repeat(np.arange(n), steps)
    along = (np.arange(len(track)) - np.repeat(np.cumsum(steps) - steps, steps)) * _STEP
    y = np.rint(start[track, 0] + along * np.sin(angle[track])).astype(int)
    x = np.rint(start[track, 1] + along * np.cos(angle[track])).astype(int)
    inside = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
    pixels = np.unique(np.stack([track, y, x])[:, inside], axis=1)  # a pixel once a track
    return pixels[1], pixels[2], charge[pixels[0]]


def dead_columns(recipe: DefectRecipe, detector: Detector, *, seed: int, ccd: int) -> np.ndarray:
    """Indices of the CCD's dead columns, the same in every exposure."""
    rng = generator(seed, Stream.COLUMNS, ccd)
    n = min(recipe.masked_columns, detector.columns)
    return np.sort(rng.choice(detector.columns, size=n, replace=False))
