"""A list of stars on the sky, joined to catalogues by position at the epoch of an exposure."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from astropy import units
from astropy.coordinates import SkyCoord, UnitSphericalRepresentation, search_around_sky
from astropy.time import Time
from jaxtyping import Float, Int

from psfscale.errors import InputError

if TYPE_CHECKING:
    from psfscale.ingest.formats.tables import Table
    from psfscale.survey.columns import Column
    from psfscale.survey.selection import StarListRecipe

__all__ = ["Matches", "StarList"]

_REACH = 1.0 / 3600
"""Margin about a field, on top of radius and motions [deg]."""
_MAS = 3.6e6
"""Milliarcseconds of a degree."""


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Rows of a catalogue joined to a list of stars, one to one, nearest pairs first.

    Attributes
    ----------
    star : index of each row's star in the list; -1 without one
    rival : True for rows whose only stars within the radius belong to nearer rows
    """

    star: Int[np.ndarray, " object"]
    rival: np.ndarray


@dataclass(frozen=True, kw_only=True)
class StarList:
    """Stars of a list.

    Attributes
    ----------
    name : of the file
    ra, dec : ICRS at `epoch` [deg]
    pm_ra, pm_dec : proper motion, right ascension with cos(dec) [mas/yr]; 0 where unknown
    epoch : Julian year of the positions; NaN without motions
    identity : of each star, the same in all exposures
    """

    name: str
    ra: Float[np.ndarray, " star"]
    dec: Float[np.ndarray, " star"]
    pm_ra: Float[np.ndarray, " star"]
    pm_dec: Float[np.ndarray, " star"]
    epoch: Float[np.ndarray, " star"]
    identity: Int[np.ndarray, " star"]

    @classmethod
    def of(cls, table: Table, recipe: StarListRecipe) -> Self:
        """Return the stars of a table; rows without a position are left out.

        Raises
        ------
        InputError
            A column is missing or of another unit, or proper motions have no epoch.
        """
        ra = table.numbers(recipe.ra, target="deg")
        dec = table.numbers(recipe.dec, target="deg")
        pm_ra, pm_dec = _motions(table, recipe)
        moving = (pm_ra != 0) | (pm_dec != 0)
        epoch = _epoch(table, recipe, moving=bool(moving.any()))
        rows = np.flatnonzero(np.isfinite(ra + dec))
        identity = _positions(ra[rows], dec[rows])
        if _has(table, recipe, "id"):
            identity = table.integers(recipe.id)[rows]
        return cls(
            name=str(table.path),
            ra=ra[rows],
            dec=dec[rows],
            pm_ra=pm_ra[rows],
            pm_dec=pm_dec[rows],
            epoch=epoch[rows],
            identity=identity,
        )

    def at(self, stars: np.ndarray, mjd: float) -> SkyCoord:
        """Return the places of some stars at a time [MJD, UTC].

        Raises
        ------
        InputError
            They move and the time is not known.
        """
        places = SkyCoord(self.ra[stars], self.dec[stars], unit="deg", frame="icrs")
        moving = (self.pm_ra[stars] != 0) | (self.pm_dec[stars] != 0)
        if not moving.any():
            return places
        if not np.isfinite(mjd):
            msg = (
                f"the stars of {self.name} have proper motions, but the time of the exposure is "
                "unknown: give the recipe's `time`"
            )
            raise InputError(msg)
        with warnings.catch_warnings():
            # A star without a parallax is put very far away; erfa says so for each.
            warnings.filterwarnings("ignore", message=".*distance overridden")
            moved = SkyCoord(
                self.ra[stars][moving] * units.deg,
                self.dec[stars][moving] * units.deg,
                pm_ra_cosdec=self.pm_ra[stars][moving] * units.mas / units.yr,
                pm_dec=self.pm_dec[stars][moving] * units.mas / units.yr,
                obstime=Time(self.epoch[stars][moving], format="jyear", scale="tcb"),
                frame="icrs",
            ).apply_space_motion(new_obstime=Time(mjd, format="mjd", scale="utc"))
        ra, dec = places.ra.deg.copy(), places.dec.deg.copy()
        ra[moving], dec[moving] = moved.ra.deg, moved.dec.deg
        return SkyCoord(ra, dec, unit="deg", frame="icrs")

    def match(
        self,
        ra: Float[np.ndarray, " object"],
        dec: Float[np.ndarray, " object"],
        *,
        mjd: float,
        radius: float,
    ) -> Matches:
        """Join positions [deg] to the list, within `radius` [arcsec], each star once at most.

        Raises
        ------
        InputError
            As `at`.
        """
        star = np.full(len(ra), -1, np.int64)
        rival = np.zeros(len(ra), bool)
        known = np.flatnonzero(np.isfinite(ra + dec))
        if known.size == 0:
            return Matches(star=star, rival=rival)
        objects = SkyCoord(ra[known], dec[known], unit="deg", frame="icrs")
        near = self._near(objects, mjd, radius)
        if near.size == 0:
            return Matches(star=star, rival=rival)
        row, column, angle, _ = search_around_sky(
            objects, self.at(near, mjd), radius * units.arcsec
        )
        taken: set[int] = set()
        # Stable, so that pairs of equal distance keep the order of the catalogue.
        for pair in np.argsort(angle.arcsec, kind="stable"):
            one, other = known[row[pair]], int(near[column[pair]])
            if star[one] < 0 and other not in taken:
                star[one] = other
                taken.add(other)
        rival[known[row]] = True
        return Matches(star=star, rival=rival & (star < 0))

    def _near(self, objects: SkyCoord, mjd: float, radius: float) -> np.ndarray:
        """Indices of the stars that may lie near the objects."""
        middle = objects.cartesian.mean().represent_as(UnitSphericalRepresentation)
        centre = SkyCoord(middle, frame="icrs")
        reach = float(objects.separation(centre).max().deg) + radius / 3600 + _REACH
        years = 0.0
        if np.isfinite(mjd) and np.isfinite(self.epoch).any():
            years = float(np.nanmax(np.abs(Time(mjd, format="mjd").jyear - self.epoch)))
        motion = np.hypot(self.pm_ra, self.pm_dec) * years / _MAS
        # A cheap test on declination first: lists of a whole survey are long.
        rows = np.flatnonzero(np.abs(self.dec - centre.dec.deg) <= reach + motion)
        places = SkyCoord(self.ra[rows], self.dec[rows], unit="deg", frame="icrs")
        near: np.ndarray = rows[places.separation(centre).deg <= reach + motion[rows]]
        return near


def _has(table: Table, recipe: StarListRecipe, key: str) -> bool:
    """Whether a list has an optional column; one that the recipe itself names must be there.

    Raises
    ------
    InputError
        The recipe names a column that the list lacks.
    """
    column: Column = getattr(recipe, key)
    if key in recipe.model_fields_set:
        table.find(column)
    return any(name in table.columns for name in column.name)


def _motions(table: Table, recipe: StarListRecipe) -> tuple[np.ndarray, np.ndarray]:
    """(star,) both motions [mas/yr]; 0 where the list has none, as for stars with two parameters.

    Raises
    ------
    InputError
        The list has one of the two columns, or lacks one that the recipe names.
    """
    has = [_has(table, recipe, key) for key in ("pmra", "pmdec")]
    if not any(has):
        return np.zeros(table.n_rows), np.zeros(table.n_rows)
    columns = (recipe.pmra, recipe.pmdec)
    ra, dec = (np.nan_to_num(table.numbers(one, target="mas / yr")) for one in columns)
    return np.asarray(ra), np.asarray(dec)


def _epoch(table: Table, recipe: StarListRecipe, *, moving: bool) -> np.ndarray:
    if _has(table, recipe, "ref_epoch"):
        return table.numbers(recipe.ref_epoch)
    if recipe.epoch is None and moving:
        msg = (
            f"{table.path} has proper motions, but no column "
            f"{' or '.join(map(repr, recipe.ref_epoch.name))}: give `epoch` in the recipe [yr]"
        )
        raise InputError(msg)
    return np.full(table.n_rows, np.nan if recipe.epoch is None else recipe.epoch)


def _positions(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """(star,) the place in milliarcseconds, as one number."""
    east = np.rint(np.mod(ra, 360) * _MAS).astype(np.int64)
    north = np.rint((dec + 90) * _MAS).astype(np.int64)
    return np.asarray((east << 30) | north)
