"""When and where an exposure points, and how its CCDs map to the sky."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from astropy.wcs import WCS

from psfscale.survey.geometry import is_turned

if TYPE_CHECKING:
    from psfscale.survey import Survey
    from psfscale.survey.simulation import SkyRecipe


@dataclass(frozen=True, kw_only=True)
class DrawnPointing:
    """One exposure on the sky.

    Attributes
    ----------
    ra, dec : ICRS of the optical axis [deg]
    mjd : start [MJD]
    roll : position angle of the focal plane's y axis, from north through east [deg]
    mirrored : whether its x axis points east, not west, at roll 0
    """

    ra: float
    dec: float
    mjd: float
    roll: float = 0.0
    mirrored: bool = False

    @property
    def axes(self) -> np.ndarray:
        """The focal plane's x and y as columns of (west, north) unit vectors.

        (west, north) are the axes u, v in which shapes on the sky are told.
        """
        roll = np.deg2rad(self.roll)
        turned = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
        return np.asarray(turned * np.array([-1.0 if self.mirrored else 1.0, 1.0]))


def pointing(recipe: SkyRecipe, exposure: int) -> DrawnPointing:
    """Where exposure number `exposure`, from 0, points."""
    first = recipe.pointing
    step = exposure * first.step / np.cos(np.deg2rad(first.dec))
    return DrawnPointing(
        ra=float((first.ra + step) % 360),
        dec=float(first.dec),
        mjd=float(first.start + exposure * first.interval / 86400),
        roll=float((first.roll + exposure * first.roll_step) % 360),
        mirrored=first.mirrored,
    )


def tangent_plane(survey: Survey, at: DrawnPointing, ccd: int) -> WCS:
    """TAN projection of a CCD with CRPIX on the optical axis; at roll 0 north up, east left."""
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
    wcs.wcs.cd = np.array([[-1.0], [1.0]]) * at.axes * scale  # from west to east
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.set()
    return wcs
