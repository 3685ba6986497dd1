"""Ingest into blocks: a survey of any length as stores of about a thousand exposures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psfscale.errors import InputError, StoreError
from psfscale.ingest.events import IngestSummary
from psfscale.ingest.objects import GROUPS
from psfscale.ingest.pending import alone, owed, write_owed
from psfscale.ingest.run import read_plan, reader_of, write_plan
from psfscale.store.index import exposures_of, is_index, read_index, write_index
from psfscale.store.stores import n_exposures_of, open_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from psfscale.ingest.events import IngestEvent
    from psfscale.ingest.scan import ExposurePlan, IngestPlan
    from psfscale.survey import Survey

BLOCK_SIZE = 1000
"""Exposures of a block: large enough that a survey is few stores, small enough for a driver."""


def ingest_blocks(
    survey: Survey,
    files: Sequence[Path],
    index: Path,
    *,
    append: bool = False,
    overwrite: bool = False,
    block_size: int = BLOCK_SIZE,
    observer: Callable[[IngestEvent], None] | None = None,
) -> IngestSummary:
    """Read files by the survey's recipe and write the survey stores of an index.

    Blocks are stores ``<index>-0000.zarr``, ... beside the index. Appended exposures fill the
    last block up and then open new ones; a block that is full is not touched again. A new block is
    opened, too, where the last has no room for as many objects on a CCD. Stopped at any moment,
    the same call goes on where it was.

    Parameters
    ----------
    survey : with the recipe of its files
    files : exposures (``images``), catalogues (``ldac``) or stacks; any order
    index : to write, or to add to; ends in .yaml
    append : add exposures to an index that exists
    overwrite : of stores alone; the blocks of an index are never replaced
    block_size : exposures of a block
    observer : called after every file looked at and every CCD written

    Returns
    -------
    IngestSummary
        Of all blocks together.

    Raises
    ------
    InputError
        As `psfscale.ingest.ingest` says, or the index does not end in .yaml, or a block is to
        hold no exposure.
    StoreError
        The index exists and `append` is False, or another ingest is writing to it.
    """
    if overwrite and index.exists():
        msg = f"--overwrite replaces no index of blocks: remove {index} and its blocks yourself"
        raise InputError(msg)
    if not is_index(index) or block_size < 1:
        msg = f"an index ends in .yaml and a block holds exposures, got {index}, {block_size}"
        raise InputError(msg)
    if index.exists():
        read_index(index)  # another file is refused before anything is made beside it
    tell = observer or (lambda _: None)
    index.parent.mkdir(parents=True, exist_ok=True)
    state = index.with_name(f".{index.name}.ingest")
    state.mkdir(exist_ok=True)
    with reader_of(survey) as reader, alone(state):
        blocks = _Blocks.of(index, unfinished=bool(owed(state)))
        plan = read_plan(survey, reader, files, tell, done=blocks.complete)
        wanted = {exposure.facts.id for exposure in plan.exposures}
        _require_allowed(index, blocks, wanted, owed(state), append=append)
        write_owed(state, owed(state) | wanted)
        resumed = tuple(e.facts.id for e in plan.exposures if e.facts.id in blocks.complete)
        found = []
        for path, part in blocks.shares(plan, block_size):
            found.append(write_plan(survey, reader, part, path, files, append=True, tell=tell))
            blocks.add(path)
            write_index(index, blocks.paths, overwrite=True)
        summary = _together(found, resumed)
        if not (summary.incomplete or summary.files_refused):
            write_owed(state, ())
        return summary


@dataclass(kw_only=True)
class _Blocks:
    """The blocks of an index.

    Attributes
    ----------
    index : path of the index
    paths : of the blocks, in order
    home : the block of every exposure
    complete : exposures that stand whole
    """

    index: Path
    paths: list[Path]
    home: dict[str, Path]
    complete: set[str]

    @classmethod
    def of(cls, index: Path, *, unfinished: bool) -> _Blocks:
        """Of an index, and of an ingest that died before it could list its last block."""
        found = cls(index=index, paths=[], home={}, complete=set())
        for path in read_index(index) if index.exists() else []:
            found.add(path)
        if unfinished and found.next_path.exists():
            found.add(found.next_path)
        return found

    @property
    def next_path(self) -> Path:
        """Of the block to open next."""
        return self.index.resolve().with_name(f"{self.index.stem}-{len(self.paths):04}.zarr")

    def add(self, path: Path) -> None:
        """Take note of a block that stands."""
        if path not in self.paths:
            self.paths.append(path)
        root: Any = open_root(path)
        n = n_exposures_of(root)
        ids, whole = root["exposures/id"][:n].tolist(), root["exposures/complete"][:n]
        self.home |= {str(i): path for i in ids if i}
        self.complete |= {str(i) for i, done in zip(ids, whole, strict=True) if done}

    def shares(self, plan: IngestPlan, size: int) -> list[tuple[Path, IngestPlan]]:
        """What of a plan goes to which block, in the order of the blocks."""
        left = [e for e in plan.exposures if e.facts.id not in self.complete]
        shares: dict[Path, list[ExposurePlan]] = {}
        for exposure in left:
            if exposure.facts.id in self.home:
                shares.setdefault(self.home[exposure.facts.id], []).append(exposure)
        new = [e for e in left if e.facts.id not in self.home]
        if self.paths and new:
            last = self.paths[-1]
            room = max(size - len(exposures_of(last)), 0)
            n = next((k for k, e in enumerate(new[:room]) if not _fits(last, e)), room)
            if n:
                shares.setdefault(last, []).extend(new[:n])
            new = new[n:]
        for k, start in enumerate(range(0, len(new), size)):
            name = f"{self.index.stem}-{len(self.paths) + k:04}.zarr"
            shares[self.index.resolve().with_name(name)] = new[start : start + size]
        return list(_parts(plan, shares))


def _parts(
    plan: IngestPlan, shares: dict[Path, list[ExposurePlan]]
) -> Iterable[tuple[Path, IngestPlan]]:
    """A plan for each block; files that tell no exposure are told of once, with the first."""
    homes = {e.facts.id: path for path, exposures in shares.items() for e in exposures}
    first = next(iter(shares), None)
    for path, exposures in shares.items():
        refused = tuple(r for r in plan.refused if homes.get(r.exposure or "", first) == path)
        yield path, replace(plan, exposures=tuple(exposures), refused=refused)


def _fits(store: Path, exposure: ExposurePlan) -> bool:
    """Whether a block has room for as many objects on a CCD as the exposure has."""
    root: Any = open_root(store)
    return all(
        max((piece.counts.get(kind, 0) for piece in exposure.pieces), default=0)
        <= root[f"{group}/id"].shape[2]
        for kind, group in GROUPS.items()
        if group in root
    )


def _require_allowed(
    index: Path, blocks: _Blocks, wanted: set[str], open_ids: set[str], *, append: bool
) -> None:
    if wanted <= blocks.complete:
        return  # there is nothing to do
    if blocks.paths and not append and not wanted & open_ids:
        state = "holds an unfinished ingest of other exposures" if open_ids else "exists already"
        msg = f"{index} {state}; add to it with --append, or choose another path"
        raise StoreError(msg)
    duplicates = sorted((wanted & blocks.complete) - open_ids)
    if duplicates:
        msg = (
            f"duplicate exposure: {', '.join(duplicates[:5])} ({len(duplicates)} in all) "
            f"stand complete in {index}; leave their files out"
        )
        raise InputError(msg)


def _together(parts: Sequence[IngestSummary], resumed: tuple[str, ...]) -> IngestSummary:
    return IngestSummary(
        exposures=tuple(e for part in parts for e in part.exposures),
        resumed=resumed,
        incomplete=tuple(e for part in parts for e in part.incomplete),
        ccds=tuple(c for part in parts for c in part.ccds),
        files_refused=tuple(f for part in parts for f in part.files_refused),
        n_absent=sum(part.n_absent for part in parts),
        off_ccds=tuple(item for part in parts for item in part.off_ccds),
    )
