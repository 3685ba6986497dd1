"""Check that all that ingest has stored is there and whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from psfscale.errors import StoreError
from psfscale.ingest.pending import alone, write_owed
from psfscale.pipeline.integrity.damage import Damage, Verification
from psfscale.pipeline.integrity.run import look, verify
from psfscale.pipeline.units.session import NEVER_FILL
from psfscale.store.index import run_stores
from psfscale.store.seal import Seal, is_of_units
from psfscale.store.shards import StoredArray, digest_of
from psfscale.store.stores import array_of, consolidated, open_root, values_of
from psfscale.store.versions import METADATA

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    import zarr

GROUPS = ("stars", "galaxies")
INGEST, EXPOSURES = "ingest", "exposures"
"""Stand for stage and units in what is found of a survey."""


def verify_stores(path: Path, *, repair: bool = False) -> list[Verification]:
    """Check a run or survey store, or all stores of a folder of a run in blocks.

    Raises
    ------
    StoreError
        There is no store at `path`.
    HeldError
        A driver holds a run, and `repair` is given.
    """
    return [
        (verify if is_run(store) else verify_survey)(store, repair=repair)
        for store in run_stores(path)
    ]


def is_run(store: Path) -> bool:
    """Whether the store is a run's: a survey has no stages."""
    return (store / "stage" / METADATA).is_file()


def verify_survey(path: Path, *, repair: bool = False) -> Verification:
    """Read all that a survey store holds, and check it against what ingest has written.

    Parameters
    ----------
    path : of the survey store
    repair : have the next ingest of the same files read damaged exposures again

    Raises
    ------
    StoreError
        There is no survey store at `path`, or its metadata are damaged and have no copy.
    """
    seal = Seal.read(path)
    broken = [] if seal is None else list(seal.broken(path))
    found = [Damage(stage="", exposure=-1, reason=reason, path=name) for name, reason in broken]
    restored = _restore(path, seal, broken) if repair and seal is not None else 0
    try:
        n_exposures, n_objects, more = _read_exposures(path)
    except StoreError:
        if not found:
            raise
        return Verification(run=path, n_units=0, n_objects=0, damages=tuple(found), what=EXPOSURES)
    found += more
    damaged = sorted({damage.exposure for damage in found if damage.stage})
    said = [f"{restored} files are restored from their sealed copies"] if restored else []
    if repair and damaged:
        _forget(path, damaged)
        said.append(f"{len(damaged)} exposures are read again by the same `psfscale ingest`")
    return Verification(
        run=path,
        n_units=n_exposures,
        n_objects=n_objects,
        damages=tuple(found),
        repaired="\n".join(said),
        what=EXPOSURES,
    )


def _read_exposures(path: Path) -> tuple[int, int, list[Damage]]:
    """Read the files of complete exposures; returns the numbers of both, and damages."""
    root = open_root(path)
    names = consolidated(path)
    arrays = _arrays(root, names)
    digests = values_of(root, "exposures/digest") if "exposures/digest" in names else None
    complete = np.flatnonzero(values_of(root, "exposures/complete")).tolist()
    counts = {group: values_of(root, f"exposures/n_{group}") for group in GROUPS if group in names}
    found: list[Damage] = []
    n_objects = 0
    for exposure in complete:
        digest = 0 if digests is None else int(digests[exposure])
        n_here = {group: table[exposure] for group, table in counts.items()}
        n, reasons = _damages(arrays, exposure, digest, n_here)
        n_objects += n
        found += [Damage(stage=INGEST, exposure=exposure, reason=reason) for reason in reasons]
    return len(complete), n_objects, found


def _arrays(root: zarr.Group, names: Iterable[str]) -> list[tuple[StoredArray, bool]]:
    """Arrays that are written exposure by exposure, and whether each CCD has files of its own."""
    found = []
    for name in sorted(names):
        if name.partition("/")[0] in GROUPS and "/" in name:
            stored = StoredArray(array_of(root, name))
            if is_of_units(stored.array.metadata.to_dict()):
                found.append((stored, stored.shard[1] == 1 and stored.shape[1] > 1))
    return found


def _damages(
    arrays: list[tuple[StoredArray, bool]],
    exposure: int,
    digest: int,
    n_objects: Mapping[str, np.ndarray],
) -> tuple[int, list[str]]:
    """Number of files of an exposure, and what is wrong with them."""
    checksums: dict[str, int] = {}
    reasons, absent = [], []
    for stored, by_ccd in arrays:
        for index in _places(stored, exposure, by_ccd=by_ccd):
            if not stored.path(index).exists():
                group, _, name = stored.array.path.strip("/").partition("/")
                here = n_objects[group][list(index[1:])] if by_ccd else n_objects[group]
                if name in NEVER_FILL and here.any():
                    reasons.append(f"{stored.path(index)} is lost")
                absent.append(str(stored.path(index)))
                continue  # fill values alone, or lost: the digest tells
            reason = look(stored, index)
            if reason:
                reasons.append(reason)
            else:
                checksums[stored.key((0, *index[1:]))] = stored.checksum(index)
    if digest and not reasons and int(digest_of(checksums), 16) != digest:
        files = ", ".join(absent) or "none is absent"
        reasons.append(
            "a file is lost or is not what ingest has written, though whole; those absent, which "
            f"may hold fill values alone: {files}"
        )
    return len(checksums) + len(reasons), reasons


def _places(stored: StoredArray, exposure: int, *, by_ccd: bool) -> Iterator[tuple[int, ...]]:
    if by_ccd:
        yield from ((exposure, ccd) for ccd in range(stored.shape[1]))
    else:
        yield (exposure,)


def _restore(path: Path, seal: Seal, broken: list[tuple[str, str]]) -> int:
    """Put copies of damaged or lost files back; returns their number."""
    names = [name for name, _ in broken if name in seal.copies]
    with alone(path):
        for name in names:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(seal.copies[name])
    return len(names)


def _forget(path: Path, exposures: list[int]) -> None:
    """Mark exposures as not complete, and owed by an ingest of all that the store names."""
    with alone(path):
        root = open_root(path, mode="r+")
        ids = [str(name) for name in values_of(root, "exposures/id")]
        array = array_of(root, "exposures/complete")
        complete = np.array(array[...])
        complete[exposures] = 0
        write_owed(path, [name for name in ids if name])
        array[...] = complete
