"""The survey store under an ingest: made, grown or taken up where it was left."""

from __future__ import annotations

import errno
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np

from psfscale.errors import InputError, StoreError
from psfscale.files import locked
from psfscale.ingest.objects import GROUPS, Kind
from psfscale.ingest.pending import alone, owed, write_owed
from psfscale.ingest.roles import Reservation, Rule
from psfscale.store.refusal import Refusal
from psfscale.store.schema import (
    INLINE_SPECTRA_SCHEMA,
    OBJECTS_PER_CHUNK,
    SPECTRA_SCHEMA,
    SURVEY_SCHEMA,
    ArraySpec,
)
from psfscale.store.seal import break_seal, write_seal
from psfscale.store.stores import (
    STATE_DIRECTORY,
    add_arrays,
    consolidate,
    create_store,
    grow,
    open_root,
)
from psfscale.store.survey_instrument import ATTRIBUTE, stored_instrument
from psfscale.store.versions import require_current
from psfscale.survey.agreement import require_same
from psfscale.survey.quantity import WITH_SOURCES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    import zarr

    from psfscale.ingest.scan import ExposurePlan, IngestPlan
    from psfscale.survey import Survey

_RESERVED_BY = "reserved_by"


@dataclass(frozen=True, kw_only=True)
class Target:
    """An open survey store with a row for every exposure to write."""

    path: Path
    root: Any
    rows: Mapping[str, int]
    todo: tuple[ExposurePlan, ...]
    resumed: tuple[str, ...]
    reservation: Reservation
    rewritten: frozenset[str]
    """Exposures whose rows may hold what an earlier attempt left."""
    arrays: dict[str, zarr.Array[Any]] = field(default_factory=dict)
    """Those in use: to open one costs a file."""

    def array(self, path: str) -> zarr.Array[Any]:
        """An array of the store."""
        if path not in self.arrays:
            self.arrays[path] = self.root[path]
        return self.arrays[path]

    def capacity(self, kind: Kind) -> int:
        """Room for objects of this kind on a CCD; 0 where the store has none."""
        return self.array(f"{GROUPS[kind]}/id").shape[2] if kind in self.kinds else 0

    @cached_property
    def specs(self) -> tuple[ArraySpec, ...]:
        """Declared arrays of exposures that the store holds."""
        spectra: tuple[ArraySpec, ...] = ()
        if "seds" in self.root:
            spectra = SPECTRA_SCHEMA if "seds/sed" in self.root else INLINE_SPECTRA_SCHEMA
        groups = {GROUPS[kind] for kind in self.kinds}
        return tuple(s for s in (*SURVEY_SCHEMA, *spectra) if s.group in groups)

    @cached_property
    def spectra(self) -> bytes:
        """The templates of spectra, on which the content of every exposure depends."""
        if "seds" not in self.root:
            return b""
        names = [name for name in ("wavelength", "sed") if f"seds/{name}" in self.root]
        parts = (np.asarray(self.array(f"seds/{name}")[...]) for name in names)
        return b"".join(part.tobytes() for part in parts)

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """Kinds of objects the store holds."""
        return tuple(kind for kind, group in GROUPS.items() if group in self.root)


@contextmanager
def prepared(survey: Survey, plan: IngestPlan, output: Path, *, append: bool) -> Iterator[Target]:
    """Make the store, or make room in it, and say which exposures are left to write.

    The store is locked as long as the target is in use.

    Raises
    ------
    ConfigError
        The store was made with another instrument.
    InputError
        An exposure stands in the store already, or its stamps do not fit the store.
    StoreError
        The store exists and `append` is False, unless an ingest of the same exposures
        was interrupted there; or another ingest is writing to it.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        # two ingests that make one store at once would take each other's files
        with locked(output.parent):
            fresh = not output.exists() or _is_empty(output)
            if fresh:
                _create(survey, plan, output)
            require_current(output)
            held.enter_context(alone(output))
        break_seal(output)
        target = _open(survey, plan, output, append=append)
        yield replace(target, rewritten=frozenset()) if fresh else target
        _settle(target)
        write_seal(output)


def _create(survey: Survey, plan: IngestPlan, output: Path) -> None:
    partial = output.with_name(f".{output.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)  # an ingest died before its store was born
    ids = [item.facts.id for item in plan.exposures]
    root: Any = create_store(
        partial,
        _specs(survey, plan),
        sizes=_sizes(survey, plan),
        attributes={
            "survey": survey.name,
            ATTRIBUTE: survey.instrument.model_dump(mode="json", context=WITH_SOURCES),
            "pixel_origin": 0,
            "stamp_centre": "index n // 2 of each axis is the pixel nearest to x, y",
            "reserved_fraction": survey.ingest.reserved_fraction,
            _RESERVED_BY: "id" if survey.ingest.stars.ids == "survey" else "sky",
        },
    )
    root["ccd"][:] = np.asarray(survey.instrument.focal_plane.ccd_ids, np.int32)
    _write_ids(root, dict(enumerate(ids)))
    if survey.spectra is not None:
        root["seds/sed"][...], root["seds/wavelength"][...] = _templates(survey)
        root["seds/name"][...] = np.asarray(("flat", *survey.spectra.names), dtype=object)
    if plan.wavelength:
        root["seds/wavelength"][...] = plan.wavelength
    (partial / STATE_DIRECTORY).mkdir()
    write_owed(partial, ids)
    try:
        partial.rename(output)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        shutil.rmtree(partial)
        msg = f"{output} is a mount point, which no store can replace: name a folder in it"
        raise StoreError(msg) from error


def _is_empty(output: Path) -> bool:
    return output.is_dir() and next(output.iterdir(), None) is None


def _specs(survey: Survey, plan: IngestPlan) -> Iterable[ArraySpec]:
    left_out = {GROUPS[kind] for kind in GROUPS if kind not in plan.stamp_shapes}
    spectra = INLINE_SPECTRA_SCHEMA if plan.wavelength else ()
    spectra = spectra if survey.spectra is None else SPECTRA_SCHEMA
    return [spec for spec in (*SURVEY_SCHEMA, *spectra) if spec.group not in left_out]


def _templates(survey: Survey) -> tuple[np.ndarray, np.ndarray]:
    """Spectra of the survey file and their wavelengths; empty without any."""
    if survey.spectra is None:
        return np.empty((0, 0)), np.empty(0)
    return survey.spectra.table(survey.instrument.passband_of("spectra"))


def _sizes(survey: Survey, plan: IngestPlan) -> dict[str, int]:
    sizes = {
        "exposure": len(plan.exposures),
        "ccd": survey.instrument.focal_plane.n_ccds,
        "reason": len(Refusal),
    }
    sizes |= dict(zip(("template", "wavelength"), _templates(survey)[0].shape, strict=True))
    sizes["wavelength"] = sizes["wavelength"] or len(plan.wavelength)
    for kind, (height, width) in plan.stamp_shapes.items():
        chunks = -(-max(plan.largest(kind), 1) // OBJECTS_PER_CHUNK)
        sizes |= {kind: chunks * OBJECTS_PER_CHUNK}
        sizes |= {f"{GROUPS[kind]}.stamp_y": height, f"{GROUPS[kind]}.stamp_x": width}
    return sizes


def _open(survey: Survey, plan: IngestPlan, output: Path, *, append: bool) -> Target:
    root: Any = open_root(output, mode="r+")
    _require_fit(survey, plan, root, output)
    grow(output)  # an ingest may have died while it made room
    root = open_root(output, mode="r+")
    stored = [str(item) for item in root["exposures/id"][:]]
    complete = np.asarray(root["exposures/complete"][:]).astype(bool)
    rows = {item: row for row, item in enumerate(stored) if item}
    wanted = [item.facts.id for item in plan.exposures]
    open_ids = owed(output)
    done = {item for item in wanted if item in rows and complete[rows[item]]}
    new = [item for item in wanted if item not in rows]
    if len(done) < len(wanted):  # else there is nothing to do
        _require_allowed(output, done=done, new=new, open_ids=open_ids, append=append)
    write_owed(output, open_ids | set(wanted))
    rewritten = frozenset(set(wanted) & set(rows))
    rows |= _make_room(output, root, stored, new)
    _add_reasons(output, root)
    _add_lacking(output, root)
    return Target(
        path=output,
        root=open_root(output, mode="r+"),
        reservation=Reservation.of(survey, _rule(root, output)),
        rows=rows,
        todo=tuple(item for item in plan.exposures if item.facts.id not in done),
        resumed=tuple(item for item in wanted if item in done),
        rewritten=rewritten,
    )


def _rule(root: Any, output: Path) -> Rule:
    """Identity that decides the roles of a store's stars.

    Raises
    ------
    StoreError
        A later psfscale decided them in another way.
    """
    # Stores without the attribute were written when exposure and id decided.
    rule = root.attrs.get(_RESERVED_BY, "exposure")
    if rule not in get_args(Rule):
        msg = (
            f"{output} reserves stars by {rule!r}, expected one of {', '.join(get_args(Rule))}: "
            "a later psfscale wrote it; add to it with that"
        )
        raise StoreError(msg)
    return cast("Rule", rule)


def _add_reasons(output: Path, root: Any) -> None:
    """Lengthen the axis of reasons of a store that was written when there were fewer."""
    counts = root["exposures/n_refused"]
    if counts.shape[2] >= len(Refusal):
        return
    (spec,) = (spec for spec in SURVEY_SCHEMA if spec.path == "exposures/n_refused")
    counts.resize((*counts.shape[:2], len(Refusal)))
    counts.attrs.update(dict(spec.attributes))
    consolidate(output)


def _add_lacking(output: Path, root: Any) -> None:
    """Make the arrays that a store of an earlier schema version lacks; they hold fill values."""
    lacking = [
        spec
        for spec in SURVEY_SCHEMA
        if spec.path not in root and (not spec.group or spec.group in root)
    ]
    if not lacking:
        return
    sizes = dict(zip(("exposure", "ccd", "reason"), root["exposures/n_refused"].shape, strict=True))
    sizes |= {kind: root[f"{GROUPS[kind]}/id"].shape[2] for kind in GROUPS if GROUPS[kind] in root}
    add_arrays(root, lacking, sizes=sizes)
    consolidate(output)


def _require_allowed(
    output: Path, *, done: set[str], new: list[str], open_ids: set[str], append: bool
) -> None:
    if not append and (not open_ids or new):
        state = "holds an unfinished ingest of other exposures" if open_ids else "exists already"
        msg = (
            f"{output} {state}; add to it with --append, replace it with --overwrite, or choose "
            "another path"
        )
        raise StoreError(msg)
    duplicates = sorted(done - open_ids)
    if duplicates:
        msg = (
            f"duplicate exposure: {', '.join(duplicates[:5])} ({len(duplicates)} in all) "
            f"stand complete in {output}; leave their files out"
        )
        raise InputError(msg)


def _require_fit(survey: Survey, plan: IngestPlan, root: Any, output: Path) -> None:
    if root.attrs.get("survey") != survey.name:
        msg = f"{output} is of survey {root.attrs.get('survey')!r}, not {survey.name!r}"
        raise InputError(msg)
    instrument = stored_instrument(root)
    if instrument is not None:
        require_same(survey.instrument, instrument, name=f"survey {survey.name!r}", store=output)
    ids = list(survey.instrument.focal_plane.ccd_ids)
    if np.asarray(root["ccd"][:]).tolist() != ids:
        msg = f"{output} has other CCDs than the survey's {ids[0]} to {ids[-1]}"
        raise InputError(msg)
    if not _same_spectra(survey, plan, root):
        msg = f"{output} has other spectra than these files; ingest them into a store of their own"
        raise InputError(msg)
    for kind, group in GROUPS.items():
        stored = root[f"{group}/image"].shape[3:] if group in root else None
        if plan.stamp_shapes.get(kind) != stored:
            msg = (
                f"{group} of {output} have stamps of shape {stored}, the files bring "
                f"{plan.stamp_shapes.get(kind)}; ingest them into a store of their own"
            )
            raise InputError(msg)


def _same_spectra(survey: Survey, plan: IngestPlan, root: Any) -> bool:
    """Whether the store has the templates, or the wavelengths, that the files bring."""
    sed, wavelength = _templates(survey)
    brought = {"sed": sed, "wavelength": plan.wavelength or wavelength}
    return all(
        np.array_equal(
            np.ravel(values),
            np.ravel(root[f"seds/{name}"][...]) if f"seds/{name}" in root else np.empty(0),
        )
        for name, values in brought.items()
    )


def _make_room(output: Path, root: Any, stored: list[str], new: list[str]) -> dict[str, int]:
    """A row for each new exposure: first those an interrupted ingest never named."""
    free = [row for row, item in enumerate(stored) if not item]
    extra = max(len(new) - len(free), 0)
    if extra:
        grow(output, len(stored) + extra)
        root = open_root(output, mode="r+")
    rows = dict(zip(new, [*free, *range(len(stored), len(stored) + extra)], strict=False))
    _write_ids(root, {row: item for item, row in rows.items()})
    return rows


def _write_ids(root: Any, ids: Mapping[int, str]) -> None:
    for name in ("exposure", "exposures/id"):
        array: Any = root[name]
        values = array[:]
        for row, identity in ids.items():
            values[row] = identity
        array[:] = values


def _settle(target: Target) -> None:
    """Close the ingest's account when all its exposures are complete; else it stays open."""
    complete = np.asarray(target.array("exposures/complete")[:]).astype(bool)
    open_ids = owed(target.path)
    if all(complete[target.rows[item]] for item in open_ids):
        write_owed(target.path, ())
