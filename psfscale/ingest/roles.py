"""Roles of objects: a star is held out in all its exposures, or in none.

Exposures measure the position of a star with a scatter, and no function of the position alone
is constant within that scatter everywhere. So the sky is cut into cells, some of them reserved, and
stars in a narrow margin around a reserved cell are left out: they are neither fitted nor held out.
A star that moves less than the margin between two exposures never trains one and validates the
other. No list of stars seen before is needed: the role does not depend on the order of ingest,
on the store, or on other stars.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from jaxtyping import Bool, Float, Int, UInt

from psfscale.arrays import Role

if TYPE_CHECKING:
    from psfscale.ingest.objects import Objects
    from psfscale.survey import Survey

__all__ = ["Reservation", "Rule"]

Rule = Literal["sky", "id", "exposure"]
"""Identity that decides a star's role: its place on the sky, its id, or exposure and id."""
_CELL = 128
"""Largest side of a cell [pixel]."""
_CELLS = 8
"""Fewest cells along the shorter side of a CCD, so that each CCD has stars of both roles."""
_MARGIN = 1 / 32
"""Width of the margin around a reserved cell, over its side: 2.5 % of the stars lie there."""
_STEPS = tuple(int(2**64 / 1.32471795724474602596**power) for power in (1, 2))
# The plastic number's lattice (Roberts 2018, "The unreasonable effectiveness of quasirandom
# sequences"): reserved cells lie evenly, and no two share a side as long as they are below 1/4.


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """The stars of a survey that are held out.

    Attributes
    ----------
    rule : identity that decides; where sky positions are unknown, ``sky`` falls back to exposure
        and id
    fraction : share of the stars to hold out
    cell : side of a cell on the sky [deg]
    """

    rule: Rule
    fraction: float
    cell: float

    @classmethod
    def of(cls, survey: Survey, rule: Rule) -> Self:
        """Return the reservation of a survey: cells of 128 pixels, or 1/8 of a small CCD."""
        detector = survey.instrument.detector
        pixels = min(_CELL, min(detector.rows, detector.columns) / _CELLS)
        cell = pixels * float(detector.pixel_scale) / 3600
        return cls(rule=rule, fraction=survey.ingest.reserved_fraction, cell=cell)

    def roles(
        self, stars: Objects, exposure: str, *, identity: Int[np.ndarray, " object"]
    ) -> UInt[np.ndarray, " object"]:
        """Return the role of each star; EMPTY for those beside a reserved cell.

        `identity` is that of a star in a list of stars and decides alone, where the rule is ``sky``
        and it is not -1: unlike a measured position it has no scatter, so no star is left out.
        """
        if self.rule == "id":
            return self._drawn("", stars.id)
        role = self._drawn(f"{exposure}\0", stars.id)
        if self.rule == "sky":
            listed = identity >= 0
            role[listed] = self._drawn("list\0", identity[listed])
            on_sky = np.isfinite(stars.ra + stars.dec) & ~listed
            role[on_sky] = self.sky_roles(stars.ra[on_sky], stars.dec[on_sky])
        return role

    def _drawn(self, prefix: str, ids: Int[np.ndarray, " object"]) -> UInt[np.ndarray, " object"]:
        return _chosen(_draws(prefix, ids) < self.fraction)

    def sky_roles(
        self, ra: Float[np.ndarray, " object"], dec: Float[np.ndarray, " object"]
    ) -> UInt[np.ndarray, " object"]:
        """Return the role of each position [deg]; EMPTY in the margin around a reserved cell."""
        inside = self._reserved(ra, dec)
        margin = self.cell * _MARGIN
        # Not below 1e-9: at the pole, any step in right ascension crosses all cells of the ring.
        stretch = np.maximum(np.cos(np.radians(dec)), 1e-9)
        beside = np.zeros(len(ra), bool)
        for east, north in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            beside |= self._reserved(ra + east * margin / stretch, dec + north * margin)
        role = _chosen(inside)
        role[beside & ~inside] = Role.EMPTY
        return role

    def _reserved(
        self, ra: Float[np.ndarray, " object"], dec: Float[np.ndarray, " object"]
    ) -> Bool[np.ndarray, " object"]:
        """True for positions in a reserved cell: rings of declination, cut into equal lengths."""
        ring = np.floor((dec + 90) / self.cell)
        middle = np.radians((ring + 0.5) * self.cell - 90)
        n_cells = np.maximum(np.rint(360 * np.cos(middle) / self.cell), 1)
        column = np.floor(np.mod(ra, 360) / 360 * n_cells)
        # Unsigned integers wrap around, as the lattice wants; floats would round off by platform.
        place = (ring.astype(np.int64).astype(np.uint64) * np.uint64(_STEPS[0])) + (
            column.astype(np.int64).astype(np.uint64) * np.uint64(_STEPS[1])
        )
        reserved: np.ndarray = place < np.uint64(min(int(self.fraction * 2**64), 2**64 - 1))
        return reserved


def _chosen(reserved: np.ndarray) -> np.ndarray:
    return np.where(reserved, np.uint8(Role.RESERVED), np.uint8(Role.FIT)).astype(np.uint8)


def _draws(prefix: str, ids: Int[np.ndarray, " object"]) -> Float[np.ndarray, " object"]:
    """Return a number in [0, 1) for each id: a hash, the same on every machine."""
    digests = (
        hashlib.blake2b(f"{prefix}{identity}".encode(), digest_size=8).digest()
        for identity in ids.tolist()
    )
    return np.array([int.from_bytes(digest, "big") / 2**64 for digest in digests], np.float64)
