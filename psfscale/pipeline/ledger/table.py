"""The books: what became of every unit, as arrays of the run store.

A marker is one small file; a survey has a hundred thousand units. The driver therefore copies
finished markers into the arrays ``units/*``, ``ccds/state`` and those of owner ``ledger``, and
removes them. The column ``units/fingerprint`` is written last, and the marker removed after it:
whatever is killed in between, the marker is still there and is copied again. Before a unit runs
again its entry is struck out, so that an entry always stands for a whole product.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from psfscale.arrays import UnitState
from psfscale.files import flush
from psfscale.pipeline.ledger.marker import Key, Marker, carried, read_markers, remove_marker
from psfscale.store.schema import EXPOSURES_PER_CHUNK
from psfscale.store.shards import StoredArray
from psfscale.store.stores import array_of, open_root, values_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    import zarr

T = TypeVar("T")

STRIDE = 64
"""Exposures whose entries are struck out together: bounds the cost of it, and what a change
of mind costs."""

_COLUMNS: dict[str, Callable[[Marker], Any]] = {
    "seconds": lambda m: m.cost.seconds,
    "cpu_seconds": lambda m: m.cost.cpu_seconds,
    "stage_seconds": lambda m: m.cost.stage_seconds,
    "peak_memory": lambda m: m.cost.peak_memory,
    "attempt": lambda m: m.attempt,
    "finished": lambda m: m.finished,
    "host": lambda m: m.host,
    "device": lambda m: m.device,
    "digest": lambda m: int(m.digest or "0", 16),
}


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of all units.

    Attributes
    ----------
    fingerprints : (exposure, stage), of what is done; 0 where nothing is
    states : (exposure, ccd, stage), `UnitState`; of what is done
    """

    fingerprints: np.ndarray
    states: np.ndarray

    @classmethod
    def nothing(cls, n_exposures: int, n_ccds: int, n_stages: int) -> Known:
        """Of a run that has not begun."""
        return cls(
            fingerprints=np.zeros((n_exposures, n_stages), np.uint64),
            states=np.zeros((n_exposures, n_ccds, n_stages), np.uint8),
        )


def code(fingerprint: str) -> int:
    """A unit's fingerprint as it stands in the books."""
    return int(fingerprint, 16)


def stages_in(root: zarr.Group) -> list[str]:
    """Names of the stages of a run store, in the order of its axis."""
    return [str(name) for name in values_of(root, "stage")]


def read_known(run: Path, stages: Sequence[str]) -> Known:
    """What is done, from the books and from the markers that are not in them yet."""
    root = open_root(run)
    there = stages_in(root)
    fingerprints = values_of(root, "units/fingerprint").astype(np.uint64)
    states = values_of(root, "ccds/state")
    known = Known.nothing(len(states), states.shape[1], len(stages))
    for k, name in enumerate(stages):
        if name in there:
            known.fingerprints[:, k] = fingerprints[:, there.index(name)]
            known.states[..., k] = states[..., there.index(name)]
    for marker in read_markers(run).values():
        if marker.stage in stages and marker.exposure < len(states):
            k = stages.index(marker.stage)
            known.fingerprints[marker.exposure, k] = code(marker.fingerprint)
            known.states[marker.exposure, :, k] = marker.states
    return known


def count_ccds(stages: Sequence[str], known: Known, done: np.ndarray) -> dict[str, dict[str, int]]:
    """CCDs by stage and state, over the units that are `done` (exposure, stage)."""
    found = {}
    for k, name in enumerate(stages):
        counts = np.bincount(known.states[done[:, k], :, k].ravel(), minlength=len(UnitState))
        if done[:, k].any():
            found[name] = {state.name: int(counts[state]) for state in UnitState if state.ended}
    return found


class Books:
    """The books of a run, to be written by the driver that holds its lease.

    Parameters
    ----------
    run : path of the run store
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self._root = open_root(run, mode="r+")
        self._stages = stages_in(self._root)
        self._n_exposures = array_of(self._root, "exposure").shape[0]
        self._arrays: dict[str, StoredArray] = {}

    def take_in(self, markers: Iterable[Marker] | None = None) -> None:
        """Copy markers, all there are if not given, into the books and remove their files."""
        found = read_markers(self.run).values() if markers is None else markers
        chosen = [m for m in found if m.stage in self._stages and m.exposure < self._n_exposures]
        for rows, part in self._blocks(chosen, lambda m: m.exposure):
            self._take_in_block(rows, part)
        for marker in chosen:
            if not marker.says_more:
                remove_marker(self.run, marker.key)

    def want(self, fingerprints: np.ndarray) -> None:
        """Note what the run wants, (exposure, stage), for who asks how it stands."""
        array_of(self._root, "units/wanted")[...] = fingerprints
        stored = array_of(self._root, "ccds/state")
        before = np.asarray(stored[...])
        asked = (fingerprints > 0)[:, None, :]
        states = np.where(asked & (before == UnitState.NOT_ASKED), UnitState.PENDING, before)
        states = np.where(~asked & (before == UnitState.PENDING), UnitState.NOT_ASKED, states)
        changed = np.flatnonzero((states != before).any(axis=(1, 2))) // EXPOSURES_PER_CHUNK
        for start in np.unique(changed) * EXPOSURES_PER_CHUNK:
            rows = slice(start, start + EXPOSURES_PER_CHUNK)
            stored[rows] = states[rows]

    def strike_out(self, keys: Iterable[Key]) -> None:
        """Forget units, before their arrays change."""
        known = [key for key in keys if key[0] in self._stages]
        for rows, part in self._blocks(known, lambda key: key[1]):
            at = [(e - rows.start, self._stages.index(stage)) for stage, e in part]
            self._set("units/fingerprint", rows, [((i, k), 0) for i, k in at])
            self._set("ccds/state", rows, [((i, slice(None), k), 0) for i, k in at])
        for key in known:
            remove_marker(self.run, key)

    def _take_in_block(self, rows: slice, markers: Sequence[Marker]) -> None:
        at = [((m.exposure - rows.start, self._stages.index(m.stage)), m) for m in markers]
        values: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
        for (i, k), marker in at:
            for path, text in (marker.carried or {}).items():
                if path in self._root:
                    dtype = array_of(self._root, path).dtype
                    values[path].append(((i,), carried(text, dtype)))
            values["ccds/state"].append(((i, slice(None), k), marker.states))
        for name, column in _COLUMNS.items():
            values[f"units/{name}"] = [(place, column(marker)) for place, marker in at]
        for path, entries in values.items():
            self._set(path, rows, entries)
        entries = [(place, code(marker.fingerprint)) for place, marker in at]
        self._set("units/fingerprint", rows, entries)

    def _set(self, path: str, rows: slice, entries: Iterable[tuple[Any, Any]]) -> None:
        """Change entries of one stored object, which the driver alone writes."""
        if path not in self._arrays:
            self._arrays[path] = StoredArray(array_of(self._root, path))
        stored = self._arrays[path]
        array: Any = stored.array
        values = np.array(array[rows])
        for place, value in entries:
            values[place] = value
        array[rows] = values
        file = stored.path((rows.start // EXPOSURES_PER_CHUNK,))
        flush(file)
        flush(file.parent)

    def _blocks(self, items: Sequence[T], exposure: Callable[[T], int]) -> Iterator[Any]:
        blocks: dict[int, list[T]] = defaultdict(list)
        for item in items:
            blocks[exposure(item) // EXPOSURES_PER_CHUNK].append(item)
        for number, part in sorted(blocks.items()):
            start = number * EXPOSURES_PER_CHUNK
            yield slice(start, min(start + EXPOSURES_PER_CHUNK, self._n_exposures)), part
