"""Check that what a run store says it holds is there and whole, and repair what is not."""

from __future__ import annotations

import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from psfscale.errors import StoreError
from psfscale.files import PARTIAL
from psfscale.pipeline.drive.aggregates import write_aggregates
from psfscale.pipeline.drive.plan import downstream
from psfscale.pipeline.integrity.damage import Damage, Repair, Verification
from psfscale.pipeline.ledger.lease import Lease
from psfscale.pipeline.ledger.marker import (
    Key,
    damaged_markers,
    key_of,
    read_markers,
)
from psfscale.pipeline.ledger.table import Books, read_known, stages_in
from psfscale.pipeline.results.tables import GROUP, aggregate_stores
from psfscale.pipeline.runs.context import read_context
from psfscale.pipeline.stages.registry import STAGE_NAMES
from psfscale.pipeline.units.session import Session
from psfscale.store.schema import EXPOSURES_PER_CHUNK
from psfscale.store.seal import Seal
from psfscale.store.shards import digest_of
from psfscale.store.stores import array_of, consolidated, open_root, values_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import zarr

    from psfscale.store.shards import StoredArray

_MADE_AFTER_UNITS = (f"{GROUP}/", "exposures/", "summary/")
"""Arrays that are made from those of units, and can be made again."""


def verify(path: Path, *, repair: bool = False) -> Verification:
    """Read all that a run store holds, and check it.

    Checked are the files that the store's last holder sealed (metadata, books, aggregates, tables)
    and markers; of every unit that is done checksums, that no product is missing or another than
    the unit has written, and that chunks are cut so that each has one writer.

    Parameters
    ----------
    path : of the run store
    repair : put sealed copies of metadata and books back; strike damaged units, and those that
        read their products, out of the books; make aggregates and tables anew where no unit runs
        again

    Raises
    ------
    StoreError
        There is no run store at `path`, or its arrays are not cut as declared.
    HeldError
        A driver holds the run, and `repair` is given.
    """
    seal = Seal.read(path)
    with Lease(path) if repair else nullcontext():
        return _verify(path, seal, repair=repair)


def _verify(path: Path, seal: Seal | None, *, repair: bool) -> Verification:
    found = [] if seal is None else [_of_seal(name, why, seal) for name, why in seal.broken(path)]
    found += list(_of_markers(path))
    if repair:
        _mend_files(path, found, seal)
    sealed = {damage.path for damage in found}
    try:
        session = Session(read_context(path))
        found += _of_driver(session, sealed)
        if repair:
            _mend_files(path, found, None)
        n_units, n_objects, more = _read_units(session)
    except StoreError as error:
        if not found:
            raise
        known = any(damage.path and damage.path in str(error) for damage in found)
        rest = [] if known else [Damage(stage="", exposure=-1, reason=str(error))]
        return Verification(run=path, n_units=0, n_objects=0, damages=(*found, *rest))
    found += more
    said = _repair(session, found) if repair and found else ""
    return Verification(
        run=path, n_units=n_units, n_objects=n_objects, damages=tuple(found), repaired=said
    )


def _read_units(session: Session) -> tuple[int, int, list[Damage]]:
    """Read the products of units; returns the numbers of units and objects, and damages."""
    found: list[Damage] = []
    known = read_known(session.context.run, STAGE_NAMES)
    digests = _digests(session)
    n_units = n_objects = 0
    for k, name in enumerate(STAGE_NAMES):
        if name not in session.stages:
            continue
        products = session.products(name)
        for array, index in products:
            _require_cut(array, by_ccd=bool(index))
        for exposure in np.flatnonzero(known.fingerprints[:, k]).tolist():
            n_units += 1
            n_objects += len(products)
            reasons = list(_damages(products, exposure, digests.get((name, exposure))))
            found += [Damage(stage=name, exposure=exposure, reason=reason) for reason in reasons]
    return n_units, n_objects, found


def _of_seal(name: str, reason: str, seal: Seal) -> Damage:
    """A sealed file that is not as it was, and what can be done about it."""
    repair: Repair = "restore" if name in seal.copies else "remove"
    if repair == "remove" and name.startswith(_MADE_AFTER_UNITS):
        repair = "aggregate"
    return Damage(stage="", exposure=-1, reason=reason, path=name, repair=repair)


def _of_markers(run: Path) -> Iterator[Damage]:
    for path, reason in damaged_markers(run):
        stage, exposure = key_of(path)
        yield Damage(stage=stage, exposure=exposure, reason=reason, path=str(path), repair="remove")


def _mend_files(run: Path, found: Sequence[Damage], seal: Seal | None) -> None:
    """Put copies back and remove what is damaged, so that the store can be opened."""
    for damage in found:
        if damage.repair == "restore" and seal is not None:
            path = run / damage.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(seal.copies[damage.path])
        elif damage.repair in ("remove", "aggregate"):
            (run / damage.path).unlink(missing_ok=True)


def _repair(session: Session, found: Sequence[Damage]) -> str:
    """Strike out what units make again, and make again what comes after them; say so."""
    run = session.context.run
    keys = {damage.key for damage in found if damage.stage}
    keys |= {key for damage in found for key in _makers(session, damage)}
    said = []
    if any(damage.repair == "restore" for damage in found):
        said.append("metadata and books are restored from their sealed copies")
    if keys:
        _strike_out(run, keys)
        said.append(f"{len(keys)} units are struck out; `psfscale run` makes them anew")
    if any(damage.repair == "aggregate" for damage in found):
        said.append(_aggregate(session, keys))
    left = [damage for damage in found if not damage.stage and damage.repair == "nothing"]
    if left:
        said.append(f"{len(left)} files that belong to no unit stay as they are")
    return "\n".join(said)


def _makers(session: Session, damage: Damage) -> Iterator[Key]:
    """Units whose numbers lie in a damaged file of the driver, 1024 exposures each."""
    group, _, rest = damage.path.partition("/")
    name, _, chunk = rest.partition("/")
    spec = session.specs.get(f"{group}/{name}")
    of_units = spec is not None and spec.owner == "ledger"
    if damage.repair != "remove" or not (of_units or (group, name) == ("ccds", "state")):
        return
    first = int(chunk.removeprefix("c").lstrip("./").split(".")[0] or 0) * EXPOSURES_PER_CHUNK
    stages = STAGE_NAMES if spec is None else (spec.stage,)
    known = read_known(session.context.run, stages).fingerprints
    for row, k in np.argwhere(known[first : first + EXPOSURES_PER_CHUNK]).tolist():
        yield stages[k], first + row


def _aggregate(session: Session, keys: Iterable[Key]) -> str:
    run = session.context.run
    if any(keys):
        return "the run makes aggregates anew, `psfscale metrics` the tables"
    write_aggregates(session.context)
    if (run / GROUP).exists():
        aggregate_stores([run], run)
    return "aggregates and tables are made anew"


def _digests(session: Session) -> dict[Key, str]:
    """Digest of the files of every unit that has left one."""
    root = open_root(session.context.run)
    if "units/digest" not in root:  # a store of before
        return {}
    table, names = values_of(root, "units/digest"), stages_in(root)
    told = {
        (names[k], exposure): f"{int(table[exposure, k]):016x}"
        for exposure, k in np.argwhere(table).tolist()
    }
    markers = read_markers(session.context.run)
    return told | {key: marker.digest for key, marker in markers.items() if marker.digest}


def _damages(
    products: Sequence[tuple[StoredArray, tuple[int, ...]]], exposure: int, digest: str | None
) -> Iterator[str]:
    """Yield what is wrong with the products of a unit."""
    checksums, whole = {}, True
    for array, index in products:
        place = (exposure, *index)
        damage = look(array, place)
        if damage:
            whole = False
            yield damage
        else:
            checksums[array.key(place)] = array.checksum(place)
    if whole and digest is not None and digest_of(checksums) != digest:
        paths = ", ".join(checksums)
        yield f"not all is what the unit has written, though whole: look at {paths}"


def _require_cut(array: StoredArray, *, by_ccd: bool) -> None:
    n = 2 if by_ccd else 1
    if array.shard != (*(1,) * n, *array.shape[n:]):
        msg = f"{array.array.path} is cut into {array.shard}, which has more than one writer"
        raise StoreError(msg)


def look(array: StoredArray, index: tuple[int, ...]) -> str:
    """Return what is wrong with a stored object; empty where nothing is."""
    if not array.path(index).exists():
        return f"{array.path(index)} is missing"
    try:
        array.read(index)
    except (StoreError, OSError, ValueError, RuntimeError, zlib.error) as error:
        return str(error)
    return ""


def _of_driver(session: Session, sealed: set[str]) -> Iterator[Damage]:
    """Yield arrays of the driver that cannot be read, and what killed writers left."""
    run = session.context.run
    root, made = open_root(run), consolidated(run)
    for spec in session.packing.stored:
        if spec.owner not in ("driver", "ledger") or spec.path not in made:
            continue
        try:
            array_of(root, spec.path)[...]
        except Exception as error:  # noqa: BLE001 (codecs raise what they like on damage)
            if not any(name.startswith(f"{spec.path}/") for name in sealed):
                yield from _unreadable(run, root, spec.path, error)
    for file in run.rglob(f"*{PARTIAL}"):
        yield Damage(stage="", exposure=-1, reason=f"{file} was left by a killed writer")


def _unreadable(run: Path, root: zarr.Group, name: str, error: Exception) -> Iterator[Damage]:
    """Yield the stored objects of an array of the driver that cannot be read."""
    reason = f"{name} cannot be read: {type(error).__name__}: {error}"
    files = sorted(f for f in (run / name).rglob("c*") if f.is_file())
    damaged = [file for file in files if not _reads(root, name, file.relative_to(run / name))]
    for file in damaged:
        text = f"{reason}; {file} is damaged"
        path = file.relative_to(run).as_posix()
        yield Damage(stage="", exposure=-1, reason=text, path=path, repair="remove")
    if not damaged:
        yield Damage(stage="", exposure=-1, reason=reason)


def _reads(root: zarr.Group, name: str, chunk: Path) -> bool:
    array = array_of(root, name)
    place = chunk.as_posix().removeprefix("c").replace(".", "/").strip("/")
    try:
        array.get_block_selection(tuple(int(i) for i in place.split("/") if i) or ())
    except Exception:  # noqa: BLE001 (codecs raise what they like on damage)
        return False
    return True


def _strike_out(path: Path, keys: set[Key]) -> None:
    stages = {(name, exposure) for stage, exposure in keys for name in downstream(stage)}
    Books(path).strike_out(sorted(stages | keys))
