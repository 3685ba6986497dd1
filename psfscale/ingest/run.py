"""Ingest: files of a survey become its store, one CCD in memory at a time."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from psfscale.arrays import Role
from psfscale.errors import HOPELESS, InputError, PsfscaleError, StoreError
from psfscale.files import write_whole_folder
from psfscale.ingest.events import (
    CcdCount,
    FileRefusal,
    IngestEvent,
    IngestSummary,
    OffCcds,
)
from psfscale.ingest.formats.facts import damage
from psfscale.ingest.formats.images import ImagesReader
from psfscale.ingest.formats.ldac import LdacReader
from psfscale.ingest.formats.stack import StackReader
from psfscale.ingest.formats.wcs import NoWcsError
from psfscale.ingest.objects import Kind, Placed, admit
from psfscale.ingest.pending import (
    alone,
    drop_refusals,
    file_line,
    object_lines,
    write_refusals,
)
from psfscale.ingest.sample import choose_stars
from psfscale.ingest.scan import scan_files
from psfscale.ingest.store import prepared
from psfscale.ingest.writer import SurveyWriter
from psfscale.store.stores import open_root
from psfscale.store.survey_instrument import require_survey_store
from psfscale.store.versions import METADATA
from psfscale.survey.geometry import field_position
from psfscale.survey.recipe import ImagesRecipe, LdacRecipe

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from psfscale.ingest.formats.reader import CcdContent, Piece, Reader
    from psfscale.ingest.formats.wcs import CelestialWcs
    from psfscale.ingest.objects import Objects
    from psfscale.ingest.scan import ExposurePlan, IngestPlan
    from psfscale.ingest.store import Target
    from psfscale.survey import Survey


def ingest(
    survey: Survey,
    files: Sequence[Path],
    output: Path,
    *,
    append: bool = False,
    overwrite: bool = False,
    observer: Callable[[IngestEvent], None] | None = None,
) -> IngestSummary:
    """Read files by the survey's recipe and write the survey store.

    Stopped at any moment, the same call goes on where it was: exposures already complete
    are left as they are, an incomplete one is redone; after its end it has nothing to do. An
    exposure is complete only when everything of it is written, none of its files was refused, and
    no CCD is lacking (unless the recipe says that CCDs may be absent).

    Parameters
    ----------
    survey : with the recipe of its files
    files : exposures (``images``), catalogues (``ldac``) or stacks; any order
    output : path of the store
    append : add exposures to a store that exists; what exceeds its room is refused,
        counted, and makes the outcome not ok
    overwrite : replace a survey store that lies at `output`, once the new one is whole
    observer : called after every file looked at and every CCD written

    Returns
    -------
    IngestSummary
        Counts of what was taken, masked and refused; `ok` tells whether it is all.

    Raises
    ------
    InputError
        A file is missing, the recipe does not fit a file (column, unit, stamps), an exposure
        comes twice or stands in the store already, or no file is readable. Nothing is written.
    StoreError
        The store exists and `append` is False, another ingest is writing to it, or the disk is
        full or may not be written: mended, the same call goes on.
    """
    tell = observer or (lambda _: None)
    with reader_of(survey) as reader:
        place = Path(output).resolve()  # of a link, what it points to
        if overwrite and append:
            msg = "--append adds to a survey, --overwrite replaces it: name one of them"
            raise InputError(msg)
        if overwrite and place.exists():
            return _replace(survey, reader, files, place, tell=tell)
        plan = read_plan(survey, reader, files, tell, done=_complete(place))
        return write_plan(survey, reader, plan, place, files, append=append, tell=tell)


def _replace(
    survey: Survey,
    reader: Reader,
    files: Sequence[Path],
    place: Path,
    *,
    tell: Callable[[IngestEvent], None],
) -> IngestSummary:
    """Write a new survey store beside the old one, which it replaces in the end."""
    require_survey_store(open_root(place), place)
    with _mendable(), alone(place), write_whole_folder(place) as partial:
        plan = read_plan(survey, reader, files, tell, done=())
        summary = write_plan(survey, reader, plan, partial, files, append=False, tell=tell)
        if not summary.exposures:
            msg = f"{place} stays as it is, since no exposure could be read whole:\n{summary}"
            raise StoreError(msg)
    return summary


@contextmanager
def reader_of(survey: Survey) -> Iterator[Reader]:
    """The reader of a survey's files, closed in the end."""
    reader = _reader(survey)
    try:
        yield reader
    finally:
        reader.close()


def read_plan(
    survey: Survey,
    reader: Reader,
    files: Sequence[Path],
    tell: Callable[[IngestEvent], None],
    *,
    done: Collection[str],
) -> IngestPlan:
    """Plan an ingest: what the files hold and, of exposures not `done`, which stars are taken."""
    paths = [Path(path) for path in files]
    plan = scan_files(reader, paths, tell, survey=survey)
    return choose_stars(survey, reader, plan, tell, done=done)


def _complete(output: Path) -> set[str]:
    """Exposures that stand complete in a store; none where there is no store."""
    if not (output / METADATA).exists():
        return set()
    root: Any = open_root(output)
    require_survey_store(root, output)
    ids, complete = root["exposures/id"][...].tolist(), root["exposures/complete"][...]
    # of different lengths where an ingest was killed as it made room
    return {str(i) for i, whole in zip(ids, complete, strict=False) if whole}


def write_plan(
    survey: Survey,
    reader: Reader,
    plan: IngestPlan,
    output: Path,
    files: Sequence[Path],
    *,
    append: bool,
    tell: Callable[[IngestEvent], None],
) -> IngestSummary:
    """The second pass: write what was planned to one store, as `ingest` says."""
    with _mendable(), prepared(survey, plan, output, append=append) as target:
        todo = {exposure.facts.id for exposure in target.todo}
        drop_refusals(target.path, exposures=todo, files={Path(path) for path in files})
        write_refusals(target.path, map(file_line, plan.refused))
        return _Ingest(survey, reader, target, tell).run(plan)


@contextmanager
def _mendable() -> Iterator[None]:
    """Say of a full or forbidden disk what to do."""
    try:
        yield
    except OSError as error:
        if isinstance(error, PsfscaleError) or error.errno not in HOPELESS:
            raise
        msg = f"{error}: mend that; the same command goes on"
        raise StoreError(msg) from error


def _reader(survey: Survey) -> Reader:
    recipe = survey.ingest
    if isinstance(recipe, LdacRecipe):
        return LdacReader(survey, recipe)
    if isinstance(recipe, ImagesRecipe):
        return ImagesReader(survey, recipe)
    return StackReader(survey, recipe)


class _Ingest:
    """The second pass: every CCD is read, admitted and written."""

    def __init__(
        self,
        survey: Survey,
        reader: Reader,
        target: Target,
        tell: Callable[[IngestEvent], None],
    ) -> None:
        self._survey, self._reader, self._target, self._tell = survey, reader, target, tell
        self._counts: list[CcdCount] = []
        self._refused: list[FileRefusal] = []
        self._off: list[OffCcds] = []
        self._done = 0
        self._total = sum(len(exposure.pieces) for exposure in target.todo)

    def run(self, plan: IngestPlan) -> IngestSummary:
        """Write all exposures that are left to write."""
        whole = {exposure.facts.id: self._write(exposure) for exposure in self._target.todo}
        return IngestSummary(
            exposures=tuple(identity for identity, good in whole.items() if good),
            resumed=self._target.resumed,
            incomplete=tuple(identity for identity, good in whole.items() if not good),
            ccds=tuple(self._counts),
            files_refused=(*plan.refused, *self._refused),
            off_ccds=tuple(self._off),
            n_absent=sum(len(ccds) for e, ccds in plan.absent.items() if e in whole),
        )

    def _write(self, exposure: ExposurePlan) -> bool:
        """Write one exposure; False where a file of it was refused."""
        writer = SurveyWriter(self._target, self._survey, exposure)
        n_refused = len(self._refused)
        shared = _OffCcdsCount(exposure.facts.id)
        for piece in exposure.pieces:
            event = IngestEvent(
                phase="write",
                done=self._done + 1,
                total=self._total,
                file=piece.path,
                exposure=exposure.facts.id,
                ccd=piece.ccd,
            )
            found = self._read(piece)
            if isinstance(found, FileRefusal):
                write_refusals(self._target.path, [file_line(found)])
                self._refused.append(found)
                event = replace(event, refused=found)
            else:
                content, placed = found
                write_refusals(self._target.path, object_lines(piece, placed))
                shared.add(content)
                count = writer.write_ccd(piece.ccd, placed, content.wcs)
                self._counts.append(count)
                event = replace(event, count=count)
            self._done += 1
            self._tell(event)
        whole = not exposure.damaged and len(self._refused) == n_refused
        off = shared.counts()
        self._off += off
        writer.close(whole=whole, n_off_ccds=sum(item.n_off for item in off))
        return whole

    def _read(self, piece: Piece) -> tuple[CcdContent, dict[Kind, Placed]] | FileRefusal:
        """A CCD and its objects that go into the store, or why it cannot be read."""
        try:
            content = self._reader.read(piece)
            kinds = self._target.kinds
            return content, {kind: self._place(kind, content, piece) for kind in kinds}
        except Exception as error:  # noqa: BLE001  one bad CCD is quarantined with its reason
            return FileRefusal(
                file=piece.path,
                exposure=piece.exposure.id,
                ccd=piece.ccd,
                reason=damage(piece.path, error),
            )

    def _place(self, kind: Kind, content: CcdContent, piece: Piece) -> Placed:
        instrument = self._survey.instrument
        objects = content.on_sky(kind)
        role = np.full(len(objects), Role.FIT, np.uint8)
        reason = np.full(len(objects), -1)
        if kind == "star":
            sample = piece.sample_of(objects)
            reason = sample.reason
            role = self._target.reservation.roles(
                objects, piece.exposure.id, identity=sample.identity
            )
        admitted = admit(
            objects,
            role=role,
            reason=reason,
            ccd_shape=(instrument.detector.rows, instrument.detector.columns),
            capacity=self._target.capacity(kind),
        )
        field_x, field_y = field_position(
            instrument,
            piece.ccd,
            admitted.objects.x,
            admitted.objects.y,
            reference_pixel=content.reference_pixel,
        )
        return Placed(
            objects=admitted.objects,
            role=admitted.role,
            refused=admitted.refused,
            field_x=field_x,
            field_y=field_y,
            jacobian=_jacobian(admitted.objects, content.wcs),
        )


def _jacobian(objects: Objects, wcs: CelestialWcs | NoWcsError) -> np.ndarray:
    """(object, 2, 2) of the tangent plane by the pixels [arcsec / pixel]; NaN without a WCS."""
    if isinstance(wcs, NoWcsError):
        return np.full((len(objects), 2, 2), np.nan)
    return wcs.jacobian(objects.x, objects.y)


class _OffCcdsCount:
    """Counts the rows of an exposure's catalogues that lie on none of its CCDs."""

    def __init__(self, exposure: str) -> None:
        self._exposure = exposure
        self._sizes: dict[tuple[Kind, Path], int] = {}
        self._rows: dict[tuple[Kind, Path], set[int]] = {}

    def add(self, content: CcdContent) -> None:
        """Take note of the rows that lie on a CCD."""
        for kind, shared in content.shared.items():
            key = kind, shared.catalogue
            self._sizes[key] = shared.n_selected
            self._rows.setdefault(key, set()).update(shared.rows.tolist())

    def counts(self) -> list[OffCcds]:
        """Catalogues with rows on no CCD."""
        found = (
            OffCcds(
                exposure=self._exposure,
                catalogue=path,
                n_off=n - len(self._rows[kind, path]),
                n_rows=n,
            )
            for (kind, path), n in self._sizes.items()
        )
        return [item for item in found if item.n_off]
