"""Sky positions to pixels and back, through the WCS of a header."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS, NoConvergence, WcsError

from psfscale.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

_ROUND_TRIP = 1e-2
_MARGIN = 1.5


def celestial_wcs(header: Mapping[str, Any]) -> WCS | None:
    """The celestial WCS of a header, or None where it has none that can be read."""
    if "CTYPE1" not in header:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            wcs = WCS(header, naxis=2)
    except (WcsError, ValueError, KeyError, MemoryError):
        return None
    return wcs if wcs.has_celestial else None


def reference_pixel(header: Mapping[str, Any]) -> tuple[float, float] | None:
    """CRPIX1, CRPIX2 (1-based), or None where the header lacks them."""
    if "CRPIX1" not in header or "CRPIX2" not in header:
        return None
    return float(header["CRPIX1"]), float(header["CRPIX2"])


def pixel_to_sky(wcs: WCS | None, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right ascension and declination [deg] of 0-based pixels; NaN without a WCS."""
    if wcs is None or x.size == 0:
        return np.full(x.shape, np.nan), np.full(x.shape, np.nan)
    ra, dec = wcs.all_pix2world(x, y, 0)
    return np.asarray(ra), np.asarray(dec)


def sky_to_pixel(
    wcs: WCS | None, ra: np.ndarray, dec: np.ndarray, ccd_shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """0-based pixels of sky positions [deg]; NaN where they are far off the CCD.

    A projection folds the far sky back onto the image; so only positions near the CCD are
    asked for, and each must come back to itself.

    Raises
    ------
    InputError
        There is no celestial WCS.
    """
    if wcs is None:
        msg = "positions: sky needs a celestial WCS in the image's header"
        raise InputError(msg)
    rows, columns = ccd_shape
    centre_ra, centre_dec = wcs.all_pix2world((columns - 1) / 2, (rows - 1) / 2, 0)
    corner_ra, corner_dec = wcs.all_pix2world([-0.5, columns - 0.5], [-0.5, rows - 0.5], 0)
    reach = _MARGIN * separation(corner_ra, corner_dec, centre_ra, centre_dec).max()
    near = np.flatnonzero(separation(ra, dec, centre_ra, centre_dec) <= reach)
    x, y = np.full(ra.shape, np.nan), np.full(ra.shape, np.nan)
    if near.size == 0:
        return x, y
    try:
        px, py = wcs.all_world2pix(ra[near], dec[near], 0)
    except NoConvergence as error:
        px, py = error.best_solution.T
    back_ra, back_dec = wcs.all_pix2world(px, py, 0)
    pixel = reach / (_MARGIN * np.hypot(rows, columns) / 2)
    true = separation(back_ra, back_dec, ra[near], dec[near]) <= _ROUND_TRIP * pixel
    x[near[true]], y[near[true]] = px[true], py[true]
    return x, y


def separation(
    ra: np.ndarray, dec: np.ndarray, ra0: np.ndarray | float, dec0: np.ndarray | float
) -> np.ndarray:
    """Angle between sky positions, all in degrees."""
    ra, dec, ra0, dec0 = (
        np.radians(np.asarray(angle, np.float64)) for angle in (ra, dec, ra0, dec0)
    )
    half = np.sin((dec - dec0) / 2) ** 2 + np.cos(dec) * np.cos(dec0) * np.sin((ra - ra0) / 2) ** 2
    return np.asarray(np.degrees(2 * np.arcsin(np.sqrt(np.clip(half, 0, 1)))))
