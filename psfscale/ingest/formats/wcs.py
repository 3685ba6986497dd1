"""Pixels of a CCD on the sky, through the WCS of its header.

Everything that astropy reads is read: SIP (with PV terms left beside it), TPV, lookup tables
(CPDIS, D2IM), CD, PC or CDELT, equatorial, galactic, supergalactic and ecliptic axes, in either
order. Sky positions that go in and come out are ICRS.

The tangent plane of an object has u towards **west** and v towards north, in arcsec, as GalSim's:
seen from the Earth with north up, u points to the right.
"""

from __future__ import annotations

import base64
import io
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from astropy.coordinates import ICRS, BarycentricMeanEcliptic, Galactic, SkyCoord, Supergalactic
from astropy.io import fits
from astropy.time import Time
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS, WcsError
from astropy.wcs.utils import wcs_to_celestial_frame

from psfscale.ingest.formats.facts import FileDefectError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from astropy.coordinates import BaseCoordinateFrame
    from jaxtyping import Float

_ROUND_TRIP = 1e-2
"""Distance [pixel] from which a sky position, taken to a pixel and back, counts as another."""
_MARGIN = 1.5
_TOLERANCE = 1e-9
"""Step [pixel] at which the iteration from sky to pixel ends; astropy's own 1e-4 is too coarse."""
_ITERATIONS = 50
_STEP = 0.5
"""Half the baseline of a numerical derivative [pixel]."""
_SINGULAR = 1e-9
"""Determinant over sum of squares of a matrix that counts as singular; 0.5 for square pixels."""
_ARCSEC = np.degrees(1.0) * 3600
_UNREADABLE = (WcsError, ValueError, KeyError, TypeError, IndexError, AssertionError, MemoryError)
"""Errors of astropy and wcslib on headers that they cannot use."""
_EQUATORIAL = "RA"
_CARDS = re.compile(
    r"NAXIS[12]?|WCSAXES|CTYPE\d|CUNIT\d|CRVAL\d|CRPIX\d|CDELT\d|CROTA\d|(PC|CD)\d_\d|(PV|PS)\d_\d+"
    r"|LONPOLE|LATPOLE|RADESYS|RADECSYS|EQUINOX|EPOCH|MJD-OBS|DATE-OBS|(A|B|AP|BP)_(ORDER|\d+_\d+)"
)
_TABLE_CARDS = ("CPDIS1", "CPDIS2", "D2IMDIS1", "D2IMDIS2")
_WHOLE_FILE = "data:application/fits;base64,"


class NoWcsError(FileDefectError):
    """A header that gives no positions on the sky; the message says why."""


@dataclass(frozen=True, eq=False)
class CelestialWcs:
    """The WCS of a CCD.

    Attributes
    ----------
    wcs : of two celestial axes, in either order
    frame : of its world coordinates
    header : its cards
    """

    wcs: WCS
    frame: BaseCoordinateFrame
    header: fits.Header

    @classmethod
    def from_header(cls, header: fits.Header, hdus: fits.HDUList | None = None) -> Self:
        """Read the WCS of a header.

        Parameters
        ----------
        header : of the image
        hdus : of its file, in which lookup tables of distortions stand

        Raises
        ------
        NoWcsError
            The header has none, or one that is not celestial or cannot be read.
        """
        if "CTYPE1" not in header:
            msg = "the header has no WCS (no card CTYPE1)"
            raise NoWcsError(msg)
        if hdus is None and any(card in header for card in _TABLE_CARDS):
            msg = (
                "the WCS of the header needs lookup tables (CPDIS, D2IM) that are not in this file"
            )
            raise NoWcsError(msg)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AstropyWarning)
                # `naxis` cuts the axes before astropy drops leftover PV terms, and then fails.
                axes = 2 if "CTYPE3" in header or header.get("WCSAXES", 2) > 2 else None
                wcs = WCS(header, fobj=hdus, naxis=axes)
                frame = _frame(wcs)
                _require_plane(wcs)
        except NoWcsError:
            raise
        except _UNREADABLE as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            msg = f"the WCS of the header cannot be read: {reason}"
            raise NoWcsError(msg) from error
        cards = [card for card in header.cards if _CARDS.fullmatch(card.keyword)]
        return cls(wcs=wcs, frame=frame, header=fits.Header(cards))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read a WCS that `text` wrote.

        Raises
        ------
        NoWcsError
            The text is no such WCS.
        """
        if text.startswith(_WHOLE_FILE):
            raw = base64.b64decode(text.removeprefix(_WHOLE_FILE))
            with fits.open(io.BytesIO(raw)) as hdus:
                return cls.from_header(hdus[0].header, hdus)
        return cls.from_header(fits.Header.fromstring(text, sep="\n"))

    def text(self) -> str:
        """Return the cards of the WCS, one a line, from which astropy rebuilds it.

        A WCS with lookup tables is a whole FITS file in base64, as a ``data:`` address.
        """
        if self._has_tables:
            file = io.BytesIO()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AstropyWarning)
                self.wcs.to_fits(relax=True).writeto(file)
            return _WHOLE_FILE + base64.b64encode(file.getvalue()).decode("ascii")
        lines = self.header.tostring(sep="\n", endcard=False, padding=False)
        return "\n".join(line.rstrip() for line in lines.splitlines())

    @property
    def _has_tables(self) -> bool:
        tables = (self.wcs.cpdis1, self.wcs.cpdis2, self.wcs.det2im1, self.wcs.det2im2)
        return any(table is not None for table in tables)

    def sky(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Right ascension and declination [deg] of 0-based pixels; NaN where they are NaN."""
        if np.size(x) == 0:
            return np.empty(np.shape(x)), np.empty(np.shape(x))
        at = self._native(np.asarray(x, np.float64), np.asarray(y, np.float64))
        if isinstance(self.frame, ICRS):
            return at
        icrs = SkyCoord(*at, unit="deg", frame=self.frame).icrs
        return np.asarray(icrs.ra.deg), np.asarray(icrs.dec.deg)

    def pixel(
        self, ra: np.ndarray, dec: np.ndarray, ccd_shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """0-based pixels of sky positions [deg]; NaN where they are far off the CCD.

        A projection folds the far sky back onto the image; so only positions near the CCD are
        asked for, and each must come back to itself.
        """
        rows, columns = ccd_shape
        centre = self.sky(np.array([(columns - 1) / 2]), np.array([(rows - 1) / 2]))
        corners = self.sky(np.array([-0.5, columns - 0.5]), np.array([-0.5, rows - 0.5]))
        reach = _MARGIN * separation(*corners, *centre).max()
        near = np.flatnonzero(separation(ra, dec, *centre) <= reach)
        x, y = np.full(np.shape(ra), np.nan), np.full(np.shape(ra), np.nan)
        if near.size == 0:
            return x, y
        world: list[np.ndarray] = [np.empty(0), np.empty(0)]
        world[self.wcs.wcs.lng], world[self.wcs.wcs.lat] = self._from_icrs(ra[near], dec[near])
        px, py = self.wcs.all_world2pix(
            *world, 0, tolerance=_TOLERANCE, maxiter=_ITERATIONS, quiet=True
        )
        pixel = reach / (_MARGIN * np.hypot(rows, columns) / 2)
        true = separation(*self.sky(px, py), ra[near], dec[near]) <= _ROUND_TRIP * pixel
        x[near[true]], y[near[true]] = px[true], py[true]
        return x, y

    def jacobian(self, x: np.ndarray, y: np.ndarray) -> Float[np.ndarray, "object 2 2"]:
        """Derivative of (u, v) [arcsec], west and north, by (x, y) [pixel], at 0-based pixels.

        ``[[dudx, dudy], [dvdx, dvdy]]`` of each object, as of GalSim's ``JacobianWCS``.
        """
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if x.size == 0:
            return np.empty((0, 2, 2))
        ra, dec = np.radians(self.sky(x, y))
        west = np.stack([np.sin(ra), -np.cos(ra), np.zeros_like(ra)], -1)
        north = np.stack([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)], -1)
        basis = np.stack([west, north], -2)
        columns = []
        for dx, dy in ((_STEP, 0.0), (0.0, _STEP)):
            ahead, behind = (_unit(*self.sky(x + s * dx, y + s * dy)) for s in (1, -1))
            columns.append((basis @ ((ahead - behind) / (2 * _STEP))[..., None])[..., 0])
        return np.asarray(np.stack(columns, -1) * _ARCSEC)

    def _native(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Longitude and latitude [deg] in the WCS's own frame."""
        world = self.wcs.all_pix2world(x, y, 0)
        return np.asarray(world[self.wcs.wcs.lng]), np.asarray(world[self.wcs.wcs.lat])

    def _from_icrs(self, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(self.frame, ICRS):
            return np.asarray(ra, np.float64), np.asarray(dec, np.float64)
        at = SkyCoord(ra, dec, unit="deg", frame="icrs").transform_to(self.frame).spherical
        return np.asarray(at.lon.deg), np.asarray(at.lat.deg)


def wcs_of(header: fits.Header, hdus: fits.HDUList | None = None) -> CelestialWcs | NoWcsError:
    """Return the WCS of a header, or why it has none, as `CelestialWcs.from_header` says."""
    try:
        return CelestialWcs.from_header(header, hdus)
    except NoWcsError as error:
        return error


def _frame(wcs: WCS) -> BaseCoordinateFrame:
    """Frame of the celestial axes.

    Raises
    ------
    NoWcsError
        The axes are not celestial, or of a frame that is not fixed to the stars.
    """
    types = " and ".join(str(word) or "''" for word in wcs.wcs.ctype)
    if not wcs.has_celestial:
        msg = f"the WCS of the header is not celestial (its axes are {types})"
        raise NoWcsError(msg)
    kind = wcs.wcs.lngtyp.strip()
    if kind == "GLON":
        return Galactic()
    if kind == "SLON":
        return Supergalactic()
    if kind == "ELON":  # astropy's own function takes these axes for equatorial ones
        year = wcs.wcs.equinox
        return BarycentricMeanEcliptic(
            equinox=Time(year if year == year else 2000.0, format="jyear")
        )
    if kind == _EQUATORIAL:
        return wcs_to_celestial_frame(wcs)
    msg = f"the WCS of the header is of a frame that is not fixed to the stars (axes {types})"
    raise NoWcsError(msg)


def _require_plane(wcs: WCS) -> None:
    """Refuse a matrix that maps the pixels to a line: wcslib inverts some of these by rounding.

    Raises
    ------
    NoWcsError
        The matrix is singular.
    """
    matrix = wcs.pixel_scale_matrix
    if abs(np.linalg.det(matrix)) <= _SINGULAR * np.sum(matrix**2):
        msg = "the WCS of the header maps all pixels to a line (its matrix is singular)"
        raise NoWcsError(msg)


def reference_pixel(header: Mapping[str, Any]) -> tuple[float, float] | None:
    """CRPIX1, CRPIX2 (1-based), or None where the header lacks them."""
    if "CRPIX1" not in header or "CRPIX2" not in header:
        return None
    return float(header["CRPIX1"]), float(header["CRPIX2"])


def _unit(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """(object, 3) unit vectors of positions [deg]."""
    ra, dec = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], -1)


def separation(
    ra: np.ndarray, dec: np.ndarray, ra0: np.ndarray | float, dec0: np.ndarray | float
) -> np.ndarray:
    """Angle between sky positions, all in degrees."""
    ra, dec, ra0, dec0 = (
        np.radians(np.asarray(angle, np.float64)) for angle in (ra, dec, ra0, dec0)
    )
    half = np.sin((dec - dec0) / 2) ** 2 + np.cos(dec) * np.cos(dec0) * np.sin((ra - ra0) / 2) ** 2
    return np.asarray(np.degrees(2 * np.arcsin(np.sqrt(np.clip(half, 0, 1)))))
