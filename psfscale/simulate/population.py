"""Where the stars and galaxies of a CCD lie, and what they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from psfscale.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float

    from psfscale.survey.instrument import Detector
    from psfscale.survey.simulation import GalaxyRecipe, SkyRecipe

_TRIES = 300
"""Places tried for each object before the CCD counts as full."""
_JAMMING = 0.547
"""Discs thrown at random on a plane never cover more of it (Feder 1980)."""


@dataclass(frozen=True, kw_only=True)
class Stars:
    """Stars of a CCD.

    Attributes
    ----------
    x, y : (star,) [pixel], 0-based
    flux : (star,) [electron]
    spectrum : (star,) name of the template, empty for a flat one
    """

    x: Float[np.ndarray, " star"]
    y: Float[np.ndarray, " star"]
    flux: Float[np.ndarray, " star"]
    spectrum: np.ndarray

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, kw_only=True)
class Galaxies:
    """Galaxies of a CCD, before the PSF.

    Attributes
    ----------
    x, y : (galaxy,) [pixel], 0-based
    flux : (galaxy,) [electron]
    sersic : (galaxy,) Sersic index
    half_light_radius : (galaxy,) [arcsec], of the circle with the ellipse's area
    e1, e2 : (galaxy,) distortion, relative to the pixel axes
    spectrum : (galaxy,) name of the template, empty for a flat one
    """

    x: Float[np.ndarray, " galaxy"]
    y: Float[np.ndarray, " galaxy"]
    flux: Float[np.ndarray, " galaxy"]
    sersic: Float[np.ndarray, " galaxy"]
    half_light_radius: Float[np.ndarray, " galaxy"]
    e1: Float[np.ndarray, " galaxy"]
    e2: Float[np.ndarray, " galaxy"]
    spectrum: np.ndarray

    def __len__(self) -> int:
        return len(self.x)


def draw_stars(rng: np.random.Generator, n: int, *, recipe: SkyRecipe, detector: Detector) -> Stars:
    """`n` stars, no two nearer than the separation of the recipe.

    Raises
    ------
    ConfigError
        The CCD has no room for them.
    """
    stars = recipe.stars
    x, y = _place(rng, n, "stars", recipe.margin, detector, [(np.empty((0, 2)), stars.separation)])
    flux = _power_law(rng, n, stars.flux_minimum, stars.flux_maximum, stars.slope)
    return Stars(x=x, y=y, flux=flux, spectrum=_spectra(rng, n, stars.spectra))


def draw_galaxies(
    rng: np.random.Generator, n: int, *, recipe: SkyRecipe, detector: Detector, stars: Stars
) -> Galaxies:
    """`n` galaxies that keep their distance from each other and from the stars.

    Raises
    ------
    ConfigError
        The CCD has no room for them.
    """
    galaxies = recipe.galaxies
    keep_off = [
        (np.empty((0, 2)), galaxies.separation),
        (np.stack([stars.x, stars.y], axis=1), recipe.stars.separation),
    ]
    x, y = _place(rng, n, "galaxies", recipe.margin, detector, keep_off)
    flux = _power_law(rng, n, galaxies.flux_minimum, galaxies.flux_maximum, galaxies.slope)
    kinds = np.array([float(kind.index) for kind in galaxies.sersic])
    fractions = np.array([float(kind.fraction) for kind in galaxies.sersic])
    radius = galaxies.half_light_radius * np.exp(
        galaxies.half_light_radius_scatter * rng.normal(size=n)
    )
    e1, e2 = _ellipticities(rng, n, galaxies)
    sersic = rng.choice(kinds, size=n, p=fractions / fractions.sum())
    return Galaxies(
        x=x,
        y=y,
        flux=flux,
        sersic=sersic,
        half_light_radius=np.minimum(radius, galaxies.half_light_radius_maximum),
        e1=e1,
        e2=e2,
        spectrum=_spectra(rng, n, galaxies.spectra),
    )


def _spectra(rng: np.random.Generator, n: int, mix: Mapping[str, float]) -> np.ndarray:
    """Names of templates, drawn by their shares."""
    if not mix:
        return np.full(n, "")
    share = np.array(list(mix.values()))
    return rng.choice(list(mix), size=n, p=share / share.sum())


def _place(
    rng: np.random.Generator,
    n: int,
    what: str,
    margin: float,
    detector: Detector,
    keep_off: list[tuple[np.ndarray, float]],
) -> tuple[np.ndarray, np.ndarray]:
    """Throw darts; the first entry of `keep_off` gains every place that is taken."""
    lowest = np.array([margin, margin])
    highest = np.array([detector.columns, detector.rows]) - 1 - margin
    if (highest <= lowest).any():
        msg = (
            f"a margin of {margin:g} pixels leaves no room on {detector.columns} x {detector.rows}"
        )
        raise ConfigError(msg)
    taken, separation = np.empty((n, 2)), keep_off[0][1]
    room = np.prod(highest - lowest + separation) * _JAMMING
    tries = _TRIES * n if n * np.pi * separation**2 / 4 <= room else 0
    count = 0
    while count < n:
        if tries == 0:
            msg = (
                f"no room for {n} {what} on a CCD of {detector.columns} x {detector.rows} pixels; "
                f"ask for fewer or lower the separations in the survey file"
            )
            raise ConfigError(msg)
        tries -= 1
        place = rng.uniform(lowest, highest)
        rules = [(taken[:count], separation), *keep_off[1:]]
        if all(_clear(place, others, distance) for others, distance in rules):
            taken[count] = place
            count += 1
    return taken[:, 0], taken[:, 1]


def _clear(place: np.ndarray, others: np.ndarray, distance: float) -> bool:
    return bool((((others - place) ** 2).sum(axis=1) >= distance**2).all())


def _power_law(
    rng: np.random.Generator, n: int, lowest: float, highest: float, slope: float
) -> np.ndarray:
    """Draws of dN/dF ~ F^-slope by inversion of its cumulative distribution."""
    u, power = rng.uniform(size=n), 1 - slope
    if abs(power) < 1e-9:
        return np.asarray(lowest * (highest / lowest) ** u)
    ends = np.array([lowest, highest]) ** power
    return np.asarray((ends[0] + u * (ends[1] - ends[0])) ** (1 / power))


def _ellipticities(
    rng: np.random.Generator, n: int, recipe: GalaxyRecipe
) -> tuple[np.ndarray, np.ndarray]:
    e = recipe.ellipticity * rng.normal(size=(n, 2))
    modulus = np.hypot(e[:, 0], e[:, 1])
    shrink = np.minimum(1, recipe.ellipticity_maximum / np.maximum(modulus, 1e-12))
    return e[:, 0] * shrink, e[:, 1] * shrink
