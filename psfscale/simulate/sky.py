"""When and where an exposure points, and how its CCDs map to the sky."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from astropy.wcs import WCS

from psfscale.survey.geometry import is_turned

if TYPE_CHECKING:
    from psfscale.survey import Survey
    from psfscale.survey.sky import SkyRecipe


@dataclass(frozen=True, kw_only=True)
class Pointing:
    """One exposure on the sky: ICRS of the optical axis [deg], start [MJD]."""

    ra: float
    dec: float
    mjd: float


def pointing(recipe: SkyRecipe, exposure: int) -> Pointing:
    """Where exposure number `exposure`, from 0, points."""
    first = recipe.pointing
    step = exposure * first.step / np.cos(np.deg2rad(first.dec))
    return Pointing(
        ra=float((first.ra + step) % 360),
        dec=float(first.dec),
        mjd=float(first.start + exposure * first.interval / 86400),
    )


def tangent_plane(survey: Survey, at: Pointing, ccd: int) -> WCS:
    """TAN projection of a CCD: north up, east left, CRPIX on the optical axis."""
    detector = survey.instrument.detector
    centre, pixel = survey.instrument.ccd_centre(ccd), detector.pixel_size * 1e-3
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = [at.ra, at.dec]
    side = -1 if is_turned(survey.instrument, ccd) else 1
    wcs.wcs.crpix = [
        (detector.columns + 1) / 2 - side * centre[0] / pixel,
        (detector.rows + 1) / 2 - side * centre[1] / pixel,
    ]
    scale = side * detector.pixel_scale / 3600
    wcs.wcs.cd = [[-scale, 0], [0, scale]]
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.set()
    return wcs
