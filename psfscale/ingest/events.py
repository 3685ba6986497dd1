"""What an ingest tells while it works, and what it hands back."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from psfscale.store.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


_SCALE_TOLERANCE = 0.1
"""Relative difference of the pixels' size to the instrument's that is told of; distortions of wide
cameras reach some percent."""


@dataclass(frozen=True, kw_only=True)
class FileRefusal:
    """A file, or one CCD of it, that could not be read, and why.

    `exposure` and `ccd` are None where the file does not even tell them.
    """

    file: Path
    exposure: str | None
    ccd: int | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class CcdCount:
    """What became of the objects of one CCD.

    `no_wcs` says why the CCD has no WCS, empty where it has one; `n_no_sky` of the objects taken
    have no right ascension or declination; `missing` counts, by column, the rows left out since
    they lack its value; `scale_ratio` is the side of the WCS's pixels over the instrument's.
    """

    exposure: str
    ccd: int
    n_stars: int = 0
    n_galaxies: int = 0
    n_masked: int = 0
    n_no_sky: int = 0
    no_wcs: str = ""
    scale_ratio: float = float("nan")
    refused: Mapping[Refusal, int] = field(default_factory=dict)
    missing: Mapping[str, int] = field(default_factory=dict)

    @property
    def taken(self) -> int:
        """Stars and galaxies in the store."""
        return self.n_stars + self.n_galaxies

    @property
    def n_off_ccd(self) -> int:
        """Objects of the CCD's catalogue that have no position on it."""
        return sum(self.refused.get(why, 0) for why in (Refusal.NO_POSITION, Refusal.OUTSIDE_CCD))


@dataclass(frozen=True, kw_only=True)
class OffCcds:
    """Rows of a catalogue of an exposure that its WCS puts on none of the CCDs read."""

    exposure: str
    catalogue: Path
    n_off: int
    n_rows: int


@dataclass(frozen=True, kw_only=True)
class IngestEvent:
    """One step of an ingest is over.

    Attributes
    ----------
    phase : ``scan``: a file was looked at; ``select``: the stars of a CCD were chosen; ``write``:
        a CCD stands in the store (its exposure counts once all its CCDs do)
    done, total : files (scan) or CCDs (select, write), this one included
    file : the file looked at or read
    count : what became of the CCD's objects; None while scanning and for a refused file
    refused : why the file or CCD was refused, or None
    """

    phase: Literal["scan", "select", "write"]
    done: int
    total: int
    file: Path
    exposure: str | None = None
    ccd: int | None = None
    count: CcdCount | None = None
    refused: FileRefusal | None = None


@dataclass(frozen=True, kw_only=True)
class IngestSummary:
    """The outcome of an ingest.

    Attributes
    ----------
    exposures : ids written and complete
    resumed : ids that an interrupted ingest of the same files had completed before
    incomplete : ids with a refused file; they are redone when the ingest is repeated
    ccds : one entry for each CCD read, empty ones too
    files_refused : files and CCDs that could not be read
    off_ccds : rows of catalogues that lie on no CCD
    n_absent : CCDs of the survey that no file holds, over the exposures written
    """

    exposures: tuple[str, ...]
    resumed: tuple[str, ...]
    incomplete: tuple[str, ...]
    ccds: tuple[CcdCount, ...]
    files_refused: tuple[FileRefusal, ...]
    off_ccds: tuple[OffCcds, ...] = ()
    n_absent: int = 0

    @property
    def n_stars(self) -> int:
        """Stars taken."""
        return sum(count.n_stars for count in self.ccds)

    @property
    def n_galaxies(self) -> int:
        """Galaxies taken."""
        return sum(count.n_galaxies for count in self.ccds)

    @property
    def n_masked(self) -> int:
        """Objects taken that have masked pixels."""
        return sum(count.n_masked for count in self.ccds)

    @property
    def n_empty(self) -> int:
        """CCDs without a single object."""
        return sum(count.taken == 0 for count in self.ccds)

    @property
    def refused(self) -> dict[Refusal, int]:
        """Objects refused, by reason."""
        total: Counter[Refusal] = Counter()
        for count in self.ccds:
            total.update(count.refused)
        return {reason: total[reason] for reason in Refusal if total[reason]}

    @property
    def missing(self) -> dict[str, int]:
        """Rows left out since they lack a value, by column; a row counts in each it lacks."""
        total: Counter[str] = Counter()
        for count in self.ccds:
            total.update(count.missing)
        return dict(total)

    @property
    def overflow(self) -> int:
        """Objects for which the store had no room."""
        return self.refused.get(Refusal.OVERFLOW, 0)

    @property
    def ok(self) -> bool:
        """No file was refused and every object had room."""
        return not self.files_refused and self.overflow == 0

    def __str__(self) -> str:
        taken = (
            f"{len(self.exposures)} exposures written, {len(self.ccds)} CCDs read "
            f"({self.n_empty} empty): {self.n_stars} stars and {self.n_galaxies} galaxies taken, "
            f"{self.n_masked} of them with masked pixels"
        )
        lines = [taken]
        if self.resumed and not (self.exposures or self.incomplete):
            lines = [f"nothing to do: all {len(self.resumed)} exposures are in the store"]
        elif self.resumed:
            lines.append(f"{len(self.resumed)} exposures stood complete from before")
        if self.refused:
            reasons = ", ".join(f"{n} {reason.name.lower()}" for reason, n in self.refused.items())
            lines.append(f"objects left out: {reasons}")
        if self.n_absent:
            lines.append(f"CCDs of the survey that no file holds: {self.n_absent}")
        if self.missing:
            columns = ", ".join(f"{n} in {name}" for name, n in self.missing.items())
            lines.append(f"not selected for want of a value (NULL, NaN, infinite): {columns}")
        lines += [*self._sky_lines(), *(f"refused: {item.reason}" for item in self.files_refused)]
        if self.incomplete:
            lines.append(f"incomplete, redone on the next call: {', '.join(self.incomplete)}")
        return "\n".join(lines)

    def _sky_lines(self) -> list[str]:
        """Say what is unknown, or looks wrong, of places on the sky."""
        lines = []
        without = [count for count in self.ccds if count.no_wcs]
        if without:
            reasons = Counter(count.no_wcs for count in without)
            n = sum(count.n_no_sky for count in self.ccds)
            lines.append(
                f"{len(without)} CCDs without a WCS: ra, dec of {n} objects are unknown (NaN), and "
                f"shapes cannot be turned to the sky ({_few(reasons)})"
            )
        n_off = sum(item.n_off for item in self.off_ccds)
        if n_off:
            lines.append(f"catalogue rows on no CCD of their exposure: {n_off}")
        most = [item for item in self.off_ccds if 2 * item.n_off > item.n_rows]
        if most:
            one = most[0]
            lines.append(
                f"most rows lie on no CCD in {len(most)} catalogues (first: {one.n_off} of "
                f"{one.n_rows} rows of {one.catalogue.name}, exposure {one.exposure}): unless they "
                "cover more sky than the CCDs read, the WCS or their coordinates are wrong"
            )
        scaled = [count for count in self.ccds if abs(count.scale_ratio - 1) > _SCALE_TOLERANCE]
        if scaled:
            first = scaled[0]
            lines.append(
                f"the WCS of {len(scaled)} CCDs has pixels of another size than the instrument's "
                f"(first: {first.scale_ratio:.4g} times, CCD {first.ccd} of exposure "
                f"{first.exposure}): is this the survey's instrument, and the right WCS?"
            )
        outside = [count for count in self.ccds if count.n_off_ccd > count.taken]
        if outside:
            first = outside[0]
            lines.append(
                f"most objects lie outside their CCD on {len(outside)} CCDs (first: "
                f"{first.n_off_ccd} of {first.n_off_ccd + first.taken} on CCD {first.ccd} of "
                f"exposure {first.exposure}): are the WCS and the columns of x and y right?"
            )
        return lines


def _few(reasons: Counter[str]) -> str:
    """The most common reasons, at most three."""
    return "; ".join(reason for reason, _ in reasons.most_common(3))
