"""One CCD of one exposure, drawn with its truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import galsim
import numpy as np

from psfscale.errors import ConfigError
from psfscale.simulate.detector import MaskBit, read_out, variance
from psfscale.simulate.optics import DrawnField
from psfscale.simulate.population import Galaxies, Stars, draw_galaxies, draw_stars
from psfscale.simulate.seeds import Stream, generator
from psfscale.simulate.wcs import DrawnPointing, pointing, tangent_plane
from psfscale.survey.geometry import field_position, is_turned

if TYPE_CHECKING:
    from jaxtyping import Complex, Float, UInt8

    from psfscale.simulate.transfer import SkySquare
    from psfscale.survey import Survey
    from psfscale.survey.simulation import SkyRecipe

STARS_LEFT = 2
"""Stars on a CCD that the recipe lists as starless."""
OBJECTS_PER_CCD = 1_000_000
"""Ids of a CCD's objects start at its id times this; its galaxies' half of it further on."""
FLAG_SATURATED = 4
FLAG_TRUNCATED = 8
_CORE = 3
"""Half the side of the box around an object in which saturation is flagged [pixel]."""

Columns = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class ObjectTables:
    """What is known of the stars, or of the galaxies, of a CCD.

    Attributes
    ----------
    catalogue : columns as measured
    truth : columns as drawn
    psf : (object, y, x) effective PSF, unit sum, or None where the recipe wants none
    """

    catalogue: Columns
    truth: Columns
    psf: Float[np.ndarray, "object y x"] | None


@dataclass(frozen=True, kw_only=True)
class DrawnCcd:
    """A CCD as read out, with its truth.

    Attributes
    ----------
    image : (y, x) [ADU], sky included
    weight : (y, x) [1/ADU²], inverse variance of sky and readout
    mask : (y, x) bits of `MaskBit`
    stars, galaxies : tables and PSFs
    """

    image: Float[np.ndarray, "y x"]
    weight: Float[np.ndarray, "y x"]
    mask: UInt8[np.ndarray, "y x"]
    stars: ObjectTables
    galaxies: ObjectTables


@dataclass(frozen=True, kw_only=True)
class _Scene:
    """Where a CCD is drawn: the survey, the unit and what follows from them."""

    survey: Survey
    recipe: SkyRecipe
    exposure: int
    ccd: int

    @property
    def unit(self) -> tuple[int, int]:
        return self.exposure, self.ccd

    def photons(self) -> dict[str, np.ndarray | None]:
        """Photons in each bin at which PSFs are computed, by template; None for a flat one."""
        spectra = self.survey.spectra
        if spectra is None:
            return {"": None}
        bins = self.recipe.optics.wavelengths
        table, _ = spectra.table(self.survey.instrument.passband_of("simulate"), bins)
        return {"": None, **dict(zip(spectra.names, table[1:], strict=True))}

    def field_position(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Focal-plane position [mm] of pixels of the CCD."""
        return field_position(self.survey.instrument, self.ccd, x, y)


def require_recipe(survey: Survey) -> SkyRecipe:
    """The survey's recipe for drawing.

    Raises
    ------
    ConfigError
        It has none.
    """
    if survey.simulate is None:
        msg = f"survey {survey.name!r} has no `simulate` section; see catalogs/toy.yaml for one"
        raise ConfigError(msg)
    return survey.simulate


def draw_ccd(survey: Survey, *, exposure: int, ccd: int) -> DrawnCcd:
    """Draw one CCD; the same whenever and wherever it is drawn.

    Parameters
    ----------
    survey : with a `simulate` recipe, whose size and seed are used
    exposure : index of the exposure, from 0
    ccd : id of the CCD

    Raises
    ------
    ConfigError
        The recipe cannot be drawn (no recipe, no room for the objects, no grid of CCDs).
    """
    recipe, detector = require_recipe(survey), survey.instrument.detector
    scene = _Scene(survey=survey, recipe=recipe, exposure=exposure, ccd=ccd)
    starless = (exposure, ccd) in recipe.defects.starless
    n_stars = min(STARS_LEFT, recipe.size.stars) if starless else recipe.size.stars
    rng = generator(recipe.seed, Stream.STARS, exposure, ccd)
    stars = draw_stars(rng, n_stars, recipe=recipe, detector=detector)
    rng = generator(recipe.seed, Stream.GALAXIES, exposure, ccd)
    galaxies = draw_galaxies(
        rng, recipe.size.galaxies, recipe=recipe, detector=detector, stars=stars
    )
    field = DrawnField(survey.instrument, recipe=recipe, exposure=exposure)
    canvas = galsim.ImageD(detector.columns, detector.rows, scale=float(detector.pixel_scale))
    star_truth = _draw_objects(canvas, scene, field, stars)
    galaxy_truth = _draw_objects(canvas, scene, field, galaxies)
    image, mask = read_out(
        canvas.array, recipe=recipe, detector=detector, seed=recipe.seed, exposure=exposure, ccd=ccd
    )
    weight = detector.gain**2 / variance(recipe, detector)
    rng = generator(recipe.seed, Stream.CATALOGUE, exposure, ccd)
    return DrawnCcd(
        image=image,
        weight=np.full(image.shape, weight, np.float32),
        mask=mask,
        stars=_tables(scene, stars, star_truth, mask, rng),
        galaxies=_tables(scene, galaxies, galaxy_truth, mask, rng),
    )


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    zernikes: np.ndarray
    snr: np.ndarray
    psf: np.ndarray | None


def _draw_objects(
    canvas: galsim.ImageD, scene: _Scene, field: DrawnField, objects: Stars | Galaxies
) -> _Drawn:
    """Add the objects to the canvas [electron], and return what was drawn of each."""
    truth, n = scene.recipe.truth, len(objects)
    zernikes = field.zernikes(*scene.field_position(objects.x, objects.y))
    snr = np.zeros(n)
    psf = np.zeros((n, truth.size, truth.size), np.float32) if truth.psf else None
    photons = scene.photons()
    turned = is_turned(scene.survey.instrument, scene.ccd)
    noise = variance(scene.recipe, scene.survey.instrument.detector)
    for i in range(n):
        transfer = field.psf(zernikes[i], photons[str(objects.spectrum[i])])
        if turned:
            transfer = transfer.conj()
        if psf is not None:
            psf[i] = field.effective(transfer, oversampling=truth.oversampling, size=truth.size)
        stamp = _stamp(transfer, field.square, objects, i, size=scene.recipe.stamp)
        snr[i] = np.sqrt(np.sum(stamp.array**2 / (noise + np.maximum(stamp.array, 0))))
        overlap = stamp.bounds & canvas.bounds
        canvas[overlap] += stamp[overlap]
    return _Drawn(zernikes=zernikes, snr=snr, psf=psf)


def _stamp(
    psf: Complex[np.ndarray, "y half"],
    square: SkySquare,
    objects: Stars | Galaxies,
    i: int,
    *,
    size: int,
) -> galsim.Image:
    """Expected electrons of an object, placed on the CCD (GalSim counts pixels from 1)."""
    light = psf * objects.flux[i]
    if isinstance(objects, Galaxies):
        galaxy = galsim.Sersic(objects.sersic[i], half_light_radius=objects.half_light_radius[i])
        light *= square.profile(galaxy.shear(galsim.Shear(e1=objects.e1[i], e2=objects.e2[i])))
    x, y = float(objects.x[i]), float(objects.y[i])
    column, row = round(x), round(y)
    scale = square.pixel_scale
    placed = square.moved(light, x=(x - column) * scale, y=(y - row) * scale)
    stamp = square.image(placed, oversampling=1, size=size)
    return galsim.Image(stamp, xmin=column - size // 2 + 1, ymin=row - size // 2 + 1)


def _tables(
    scene: _Scene,
    objects: Stars | Galaxies,
    drawn: _Drawn,
    mask: np.ndarray,
    rng: np.random.Generator,
) -> ObjectTables:
    recipe, n = scene.recipe, len(objects)
    gain = scene.survey.instrument.detector.gain
    first = scene.ccd * OBJECTS_PER_CCD
    first += OBJECTS_PER_CCD // 2 if isinstance(objects, Galaxies) else 0
    names: Columns = {"ID": first + 1 + np.arange(n), "CCD": np.full(n, scene.ccd, np.int32)}
    at = pointing(recipe, scene.exposure)
    wcs = tangent_plane(scene.survey, at, scene.ccd)
    scatter = rng.normal(size=(2, n)) * recipe.catalogue.position_scatter
    x = np.round(objects.x + 1 + scatter[0], recipe.catalogue.position_decimals)
    y = np.round(objects.y + 1 + scatter[1], recipe.catalogue.position_decimals)
    catalogue = names | _sky_columns(wcs, x, y)
    catalogue["FLUX"] = objects.flux / gain * (1 + rng.normal(size=n) / drawn.snr)
    catalogue["SNR"] = drawn.snr
    catalogue["FLAGS"] = _flags(objects, mask)
    if scene.survey.spectra is not None:
        catalogue["SED"] = objects.spectrum
    truth = names | _sky_columns(wcs, objects.x + 1, objects.y + 1)
    field_x, field_y = scene.field_position(objects.x, objects.y)
    truth |= {"FIELD_X": field_x, "FIELD_Y": field_y, "FLUX": objects.flux / gain}
    truth["ZERNIKES"] = drawn.zernikes
    if scene.survey.spectra is not None:
        truth["SED"] = objects.spectrum
    if isinstance(objects, Galaxies):
        truth |= _shapes(objects, at)
    return ObjectTables(catalogue=catalogue, truth=truth, psf=drawn.psf)


def _sky_columns(wcs: Any, x: np.ndarray, y: np.ndarray) -> Columns:
    ra, dec = wcs.wcs_pix2world(x, y, 1)
    return {"X": x, "Y": y, "RA": ra, "DEC": dec}


def _shapes(galaxies: Galaxies, at: DrawnPointing) -> Columns:
    """Shapes before the PSF: distortions along the pixel axes, and with u west and v north."""
    e1, e2 = galaxies.e1, galaxies.e2
    axes = at.axes
    matrix = axes @ np.stack([1 + e1, e2, e2, 1 - e1], -1).reshape(-1, 2, 2) @ axes.T
    return {
        "MODEL": np.full(len(galaxies), "sersic"),
        "SERSIC_INDEX": galaxies.sersic,
        "HALF_LIGHT_RADIUS": galaxies.half_light_radius,
        "E1": e1,
        "E2": e2,
        "E1_SKY": (matrix[:, 0, 0] - matrix[:, 1, 1]) / 2,
        "E2_SKY": matrix[:, 0, 1],
    }


def _flags(objects: Stars | Galaxies, mask: np.ndarray) -> np.ndarray:
    """Bits as SExtractor sets them: 4 saturated, 8 the core is cut by the edge of the CCD."""
    flags = np.zeros(len(objects), np.int32)
    for i, (x, y) in enumerate(zip(objects.x, objects.y, strict=True)):
        row, column = round(y), round(x)
        low, left = max(row - _CORE, 0), max(column - _CORE, 0)
        core = mask[low : row + _CORE + 1, left : column + _CORE + 1]
        if (core & MaskBit.SATURATED).any():
            flags[i] |= FLAG_SATURATED
        if core.shape != (2 * _CORE + 1, 2 * _CORE + 1):
            flags[i] |= FLAG_TRUNCATED
    return flags
