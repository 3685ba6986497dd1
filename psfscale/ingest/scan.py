"""The first pass over the files: which exposures and CCDs there are, and how large."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from psfscale.errors import ConfigError, InputError
from psfscale.ingest.events import FileRefusal, IngestEvent
from psfscale.ingest.formats.bounds import require_memory
from psfscale.ingest.formats.facts import damage
from psfscale.ingest.formats.reader import FileScan
from psfscale.survey.agreement import undescribed
from psfscale.survey.recipe import StackRecipe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from psfscale.ingest.formats.reader import ExposureFacts, Piece, Reader
    from psfscale.ingest.objects import Kind
    from psfscale.survey import Instrument, Survey

_BYTES = 24
"""Bytes held for a pixel of a stamp while a CCD is read: image and weight, and copies of them."""
_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class ExposurePlan:
    """One exposure: its CCDs in the order of their ids, and whether a file of it was refused."""

    facts: ExposureFacts
    pieces: tuple[Piece, ...]
    damaged: bool

    @property
    def source(self) -> str:
        """Names of the files it comes from."""
        return ", ".join(sorted({piece.path.name for piece in self.pieces}))


@dataclass(frozen=True, kw_only=True)
class IngestPlan:
    """All that is to be ingested."""

    exposures: tuple[ExposurePlan, ...]
    refused: tuple[FileRefusal, ...]
    stamp_shapes: dict[Kind, tuple[int, int]]
    wavelength: tuple[float, ...] = ()
    """Centres of the spectra's bins [µm], where objects bring their own."""
    absent: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """By exposure, the CCDs of the survey that no file holds."""

    def largest(self, kind: Kind) -> int:
        """Most objects of this kind on one CCD."""
        return max(
            (p.counts.get(kind, 0) for exposure in self.exposures for p in exposure.pieces),
            default=0,
        )


def scan_files(
    reader: Reader,
    files: Sequence[Path],
    observer: Callable[[IngestEvent], None],
    *,
    survey: Survey,
) -> IngestPlan:
    """Look at all files, in the order given; refuse exposures in filters of another instrument.

    Raises
    ------
    InputError
        A file is missing or given twice, two files hold the same CCD of an exposure, stamps differ
        in shape or need more memory than there is, or no file can be read by the recipe. A file
        that cannot while others can is refused.
    ConfigError
        The recipe can be used for no file.
    """
    _require_files(files)
    pieces: list[Piece] = []
    refused: list[FileRefusal] = []
    for number, path in enumerate(files, start=1):
        found = _described(_scan(reader, path), survey.instrument)
        pieces.extend(found.pieces)
        refused.extend(found.refused)
        observer(
            IngestEvent(
                phase="scan",
                done=number,
                total=len(files),
                file=path,
                refused=found.refused[0] if found.refused else None,
            )
        )
    if not pieces:
        why = "; ".join(item.reason for item in refused[:3]) or "they hold no CCD to take"
        msg = f"none of the {len(files)} files can be ingested: {why}"
        raise InputError(msg)
    absent = {} if isinstance(survey.ingest, StackRecipe) else _absent(pieces, refused, survey)
    if not survey.ingest.ccds_may_be_absent:
        refused += _lacking(absent, pieces, survey)
    plan = IngestPlan(
        exposures=_exposures(pieces, refused),
        refused=tuple(refused),
        stamp_shapes=_stamp_shapes(pieces),
        wavelength=pieces[0].wavelength,
        absent=absent,
    )
    for kind, (height, width) in plan.stamp_shapes.items():
        n = plan.largest(kind)
        need = n * height * width * _BYTES
        require_memory(need, f"{n} stamps of {height} x {width} pixels on one CCD")
    return plan


def _absent(
    pieces: list[Piece], refused: list[FileRefusal], survey: Survey
) -> dict[str, list[int]]:
    """CCDs of the survey that no file of an exposure holds, where there are any.

    Of an exposure with a file that was refused as a whole nobody knows what that file held.
    """
    wanted = set(survey.instrument.focal_plane.ccd_ids) - set(survey.ingest.skip_ccds)
    unknown = {item.exposure for item in refused if item.ccd is None}
    found: dict[str, set[int]] = {}
    for piece in pieces:
        found.setdefault(piece.exposure.id, set()).add(piece.ccd)
    for item in refused:
        if item.exposure in found and item.ccd is not None:
            found[item.exposure].add(item.ccd)
    return {
        exposure: sorted(wanted - ccds)
        for exposure, ccds in found.items()
        if exposure not in unknown and wanted - ccds
    }


def _lacking(
    absent: Mapping[str, Sequence[int]], pieces: list[Piece], survey: Survey
) -> list[FileRefusal]:
    """Refusals of exposures some of whose CCDs are in no file."""
    n = len(set(survey.instrument.focal_plane.ccd_ids) - set(survey.ingest.skip_ccds))
    first = {piece.exposure.id: piece.path for piece in reversed(pieces)}
    return [
        FileRefusal(
            file=first[exposure],
            exposure=exposure,
            ccd=None,
            reason=f"exposure {exposure}: no file holds {_named(ccds)} of the survey's {n} CCDs; "
            "give its files, or say in the recipe what is meant: skip_ccds leaves CCDs out, "
            "ccds_may_be_absent: true takes exposures as they come",
        )
        for exposure, ccds in absent.items()
    ]


def _named(ccds: Sequence[int]) -> str:
    shown = ", ".join(str(ccd) for ccd in ccds[:_SHOWN])
    more = f" and {len(ccds) - _SHOWN} more" if len(ccds) > _SHOWN else ""
    return f"CCD {shown}{more}"


def _require_files(files: Sequence[Path]) -> None:
    if not files:
        msg = "no files to ingest"
        raise InputError(msg)
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        msg = f"{len(missing)} of {len(files)} files do not exist: {', '.join(missing[:5])}"
        raise InputError(msg)
    if len(set(files)) < len(files):
        twice = sorted({str(path) for path in files if files.count(path) > 1})
        msg = f"files are given twice: {', '.join(twice[:5])}"
        raise InputError(msg)


def _scan(reader: Reader, path: Path) -> FileScan:
    try:
        return reader.scan(path)
    except ConfigError:
        raise  # no file can be read with this recipe
    except Exception as error:  # noqa: BLE001  a damaged file fails in any way; it is quarantined
        return _refuse(reader, path, damage(path, error))


def _described(found: FileScan, instrument: Instrument) -> FileScan:
    """What was found of exposures whose filter the instrument describes; the others are refused."""
    why = [undescribed(instrument, piece.exposure.filter) for piece in found.pieces]
    refused = [
        FileRefusal(
            file=piece.path,
            exposure=piece.exposure.id,
            ccd=piece.ccd,
            reason=f"exposure {piece.exposure.id}: {reason}",
        )
        for piece, reason in zip(found.pieces, why, strict=True)
        if reason is not None
    ]
    pieces = tuple(p for p, reason in zip(found.pieces, why, strict=True) if reason is None)
    return FileScan(pieces=pieces, refused=(*found.refused, *refused))


def _refuse(reader: Reader, path: Path, reason: str) -> FileScan:
    exposure = reader.exposure_of(path)
    return FileScan(refused=(FileRefusal(file=path, exposure=exposure, ccd=None, reason=reason),))


def _exposures(pieces: list[Piece], refused: list[FileRefusal]) -> tuple[ExposurePlan, ...]:
    damaged = {item.exposure for item in refused}
    found: dict[str, dict[int, Piece]] = {}
    for piece in pieces:
        ccds = found.setdefault(piece.exposure.id, {})
        if piece.ccd in ccds:
            msg = (
                f"duplicate exposure: CCD {piece.ccd} of exposure {piece.exposure.id} stands in "
                f"{ccds[piece.ccd].path} and in {piece.path}; give one of them"
            )
            raise InputError(msg)
        ccds[piece.ccd] = piece
    return tuple(
        ExposurePlan(
            facts=next(iter(ccds.values())).exposure,
            pieces=tuple(ccds[ccd] for ccd in sorted(ccds)),
            damaged=identity in damaged,
        )
        for identity, ccds in found.items()
    )


def _stamp_shapes(pieces: list[Piece]) -> dict[Kind, tuple[int, int]]:
    first = pieces[0]
    for piece in pieces:
        if piece.stamp_shapes != first.stamp_shapes:
            msg = (
                f"stamps differ in shape: {dict(piece.stamp_shapes)} in {piece.path}, "
                f"{dict(first.stamp_shapes)} in {first.path}; ingest them into different stores"
            )
            raise InputError(msg)
        if piece.wavelength != first.wavelength:
            msg = f"spectra in {piece.path} have other wavelengths than those in {first.path}"
            raise InputError(msg)
    return dict(first.stamp_shapes)
