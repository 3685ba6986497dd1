"""What every format offers to the ingest."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from psfscale.ingest.formats.facts import Facts, FileDefectError
from psfscale.ingest.formats.wcs import CelestialWcs, NoWcsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from psfscale.ingest.events import FileRefusal
    from psfscale.ingest.objects import Kind, Objects
    from psfscale.survey import Survey


@dataclass(frozen=True, kw_only=True)
class ExposureFacts:
    """What the files tell of a whole exposure; NaN or empty where the recipe has no source."""

    id: str
    time: float
    filter: str
    ra: float
    dec: float


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The stars chosen on one CCD, or why its file could not be read.

    Attributes
    ----------
    reason : (object,) of each that the reader reads: a `Refusal`, -1 where it is taken
    identity : (object,) of its star in a list of stars, -1 without
    failure : empty where the CCD was read
    """

    reason: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    identity: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    failure: str = ""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One CCD in one file.

    Attributes
    ----------
    index : where in the file: the reader's own
    counts : objects selected, an upper bound of what is taken
    stamp_shapes : (y, x) pixels
    wavelength : centres of the spectra's bins [µm], where objects bring their own
    sample : the stars chosen, where more than cuts chooses them
    """

    path: Path
    exposure: ExposureFacts
    ccd: int
    index: int
    counts: Mapping[Kind, int]
    stamp_shapes: Mapping[Kind, tuple[int, int]]
    wavelength: tuple[float, ...] = ()
    sample: Sample | None = None

    def sample_of(self, stars: Objects) -> Sample:
        """Return the sample of the stars read; all of them where cuts alone choose.

        Raises
        ------
        FileDefectError
            The CCD could not be read when the stars were chosen, or it has changed since.
        """
        n = len(stars)
        if self.sample is None:
            return Sample(reason=np.full(n, -1), identity=np.full(n, -1))
        if self.sample.failure:
            raise FileDefectError(self.sample.failure)
        if len(self.sample.reason) != n:
            msg = (
                f"{self.path} has {n} stars on CCD {self.ccd}, it had {len(self.sample.reason)} "
                "when they were chosen: leave the files alone, then rerun the same command"
            )
            raise FileDefectError(msg)
        return self.sample


@dataclass(frozen=True, kw_only=True)
class FileScan:
    """What a first look at a file found, without reading pixels."""

    pieces: tuple[Piece, ...] = ()
    refused: tuple[FileRefusal, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SharedRows:
    """Rows of a catalogue without CCDs: those that the WCS puts on one CCD.

    Attributes
    ----------
    catalogue : the file
    n_selected : rows that the recipe's cuts leave, on whatever CCD
    rows : indices of those of them that lie on this CCD
    """

    catalogue: Path
    n_selected: int
    rows: np.ndarray


@dataclass(frozen=True, kw_only=True)
class CcdContent:
    """All objects of one CCD.

    Attributes
    ----------
    objects : by kind; right ascension and declination are those of the catalogue, NaN without
    reference_pixel : where the header has it (1-based)
    wcs : of the CCD, or why there is none
    shared : by kind, where one catalogue serves all CCDs of an exposure
    """

    objects: Mapping[Kind, Objects] = field(default_factory=dict)
    reference_pixel: tuple[float, float] | None = None
    wcs: CelestialWcs | NoWcsError = field(
        default_factory=lambda: NoWcsError("files of this format have no header")
    )
    shared: Mapping[Kind, SharedRows] = field(default_factory=dict)

    def on_sky(self, kind: Kind) -> Objects:
        """Return the objects; sky positions that the catalogue lacks come from the WCS."""
        objects = self.objects[kind]
        lacking = ~np.isfinite(objects.ra + objects.dec) & np.isfinite(objects.x + objects.y)
        if isinstance(self.wcs, NoWcsError) or not lacking.any():
            return objects
        ra, dec = objects.ra.copy(), objects.dec.copy()
        ra[lacking], dec[lacking] = self.wcs.sky(objects.x[lacking], objects.y[lacking])
        return replace(objects, ra=ra, dec=dec)


class Reader(Protocol):
    """One format. It reads one CCD at a time."""

    def scan(self, path: Path) -> FileScan:
        """Look at a file without reading its pixels.

        Raises
        ------
        FileDefectError
            The file is damaged: it is refused, the others go on.
        InputError
            The recipe does not fit the file.
        """
        ...

    def read(self, piece: Piece) -> CcdContent:
        """The objects of one CCD.

        Raises
        ------
        FileDefectError, InputError
            As `scan`.
        """
        ...

    def exposure_of(self, path: Path) -> str | None:
        """Exposure id of a damaged file, as far as it still tells."""
        ...

    def close(self) -> None:
        """Let go of all files."""
        ...


def exposure_facts(survey: Survey, facts: Facts) -> ExposureFacts:
    """What the recipe's sources tell of the exposure."""
    recipe = survey.ingest
    nan = float("nan")
    return ExposureFacts(
        id=facts.text(recipe.exposure, "exposure id"),
        time=facts.number(recipe.time, "d", "time") if recipe.time else nan,
        filter=facts.text(recipe.filter, "filter") if recipe.filter else "",
        ra=facts.number(recipe.ra, "deg", "right ascension") if recipe.ra else nan,
        dec=facts.number(recipe.dec, "deg", "declination") if recipe.dec else nan,
    )


def known_ccd(survey: Survey, ccd: int) -> bool:
    """Whether the survey has this CCD."""
    return ccd in survey.instrument.focal_plane.ccd_ids


def unknown_ccd_message(survey: Survey, ccd: int) -> str:
    """Why a CCD is refused, and what to do about it."""
    ids = survey.instrument.focal_plane.ccd_ids
    return (
        f"CCD {ccd} is none of the survey's {ids.start} to {ids.stop - 1}; "
        "list it under skip_ccds to leave it out"
    )


def ccd_number(facts: Facts, word: str) -> int:
    """`word` as a CCD id.

    Raises
    ------
    FileDefectError
        It is not an integer.
    """
    try:
        return int(word)
    except ValueError as error:
        msg = f"{facts.path}: CCD id {word!r} is no integer; map it with `names` or `pattern`"
        raise FileDefectError(msg) from error
