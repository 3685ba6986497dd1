"""Whether what a run store says it holds is there and whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from psfscale.errors import StoreError
from psfscale.pipeline.drive.plan import downstream
from psfscale.pipeline.ledger.books import Books, read_known, stages_in
from psfscale.pipeline.ledger.files import PARTIAL
from psfscale.pipeline.ledger.lease import Lease
from psfscale.pipeline.ledger.marker import Key, digest_of, read_markers
from psfscale.pipeline.stages.context import read_context
from psfscale.pipeline.stages.declared import STAGE_NAMES
from psfscale.pipeline.storage import array_of, values_of
from psfscale.pipeline.storage.session import Session
from psfscale.store.layout import consolidated, open_root

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from psfscale.store.objects import StoredArray


@dataclass(frozen=True, kw_only=True)
class Damage:
    """Something that is not as the run store says.

    Attributes
    ----------
    stage, exposure : the unit whose product it is; empty and -1 where it is no unit's
    reason : what is wrong, with the path
    """

    stage: str
    exposure: int
    reason: str

    @property
    def key(self) -> Key:
        """(stage, exposure)."""
        return self.stage, self.exposure

    def __str__(self) -> str:
        return (
            f"{self.stage} of exposure {self.exposure}: {self.reason}"
            if self.stage
            else self.reason
        )


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was looked at in a run store, and what of it is not as it should be.

    Attributes
    ----------
    run : path of the run store
    n_units : done units whose products were looked at
    n_objects : stored objects that were read and checked
    damages : what is wrong
    repaired : whether the units concerned were struck out, to be run again
    """

    run: Path
    n_units: int
    n_objects: int
    damages: tuple[Damage, ...]
    repaired: bool = False

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.damages

    def __str__(self) -> str:
        lines = [str(damage) for damage in self.damages]
        lines.append(
            f"{self.n_units} units, {self.n_objects} stored objects read: "
            f"{len(self.damages) or 'no'} damages"
        )
        if self.damages:
            advice = (
                "are struck out; `psfscale run` makes them anew"
                if self.repaired
                else ("are found; `psfscale verify --repair` has the next run make them anew")
            )
            lines.append(f"units with damages {advice}")
        return "\n".join(lines)


def verify(path: Path, *, repair: bool = False) -> Verification:
    """Read every stored object of every unit that is done, and check it.

    Checked are checksums, that no product is missing or another than the unit has written, that
    chunks are cut so that each has one writer, and that the arrays the driver keeps can be read.

    Parameters
    ----------
    path : of the run store
    repair : strike damaged units, and those that read their products, out of the books

    Raises
    ------
    StoreError
        There is no run store at `path`, or its arrays are not cut as declared.
    RunError
        A driver holds the run, and `repair` is given.
    """
    session = Session(read_context(path))
    known = read_known(path, STAGE_NAMES)
    digests = _digests(session)
    found = list(_of_driver(session))
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
    if repair and found:
        _strike_out(path, {damage.key for damage in found if damage.stage})
    return Verification(
        run=path, n_units=n_units, n_objects=n_objects, damages=tuple(found), repaired=repair
    )


def _digests(session: Session) -> dict[Key, str]:
    """Of every unit that has left one, what it said of all that it stored."""
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
    """What is wrong with the products of a unit."""
    checksums, whole = {}, True
    for array, index in products:
        place = (exposure, *index)
        damage = _look(array, place)
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


def _look(array: StoredArray, index: tuple[int, ...]) -> str:
    """What is wrong with a stored object; empty where nothing is."""
    if not array.path(index).exists():
        return f"{array.path(index)} is missing"
    try:
        array.read(index)
    except (StoreError, OSError) as error:
        return str(error)
    return ""


def _of_driver(session: Session) -> Iterator[Damage]:
    root, made = open_root(session.context.run), consolidated(session.context.run)
    for spec in session.packing.stored:
        if spec.owner in ("driver", "ledger") and spec.path in made:
            try:
                array_of(root, spec.path)[...]
            except Exception as error:  # noqa: BLE001 (codecs raise what they like on damage)
                reason = f"{spec.path} cannot be read: {type(error).__name__}: {error}"
                yield Damage(stage="", exposure=-1, reason=reason)
    for file in session.context.run.rglob(f"*{PARTIAL[0]}"):
        yield Damage(stage="", exposure=-1, reason=f"{file} was left by a killed writer")


def _strike_out(path: Path, keys: set[Key]) -> None:
    with Lease(path):
        stages = {(name, exposure) for stage, exposure in keys for name in downstream(stage)}
        Books(path).strike_out(sorted(stages | keys))
