"""How a run in blocks stands, read from its stores alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psfscale.pipeline.state.costs import HostCost, StageCost, added
from psfscale.pipeline.state.run_status import Pace, RunStatus, status
from psfscale.store.index import INDEX, read_index, run_stores

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class BlocksStatus:
    """How a run in blocks stands.

    Attributes
    ----------
    run : path of its folder
    blocks : how each block stands, by name
    not_begun : names of blocks that no driver has begun
    """

    run: Path
    blocks: dict[str, RunStatus]
    not_begun: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether every wanted unit of every block is done."""
        return not self.not_begun and all(block.finished for block in self.blocks.values())

    @property
    def costs(self) -> dict[str, StageCost]:
        """Per stage, what the finished units of all blocks took."""
        return added(block.costs for block in self.blocks.values())

    @property
    def hosts(self) -> dict[str, HostCost]:
        """Per host, what it gave to them."""
        return added(block.hosts for block in self.blocks.values())

    @property
    def pace(self) -> Pace:
        """Of the blocks begun: what is left, and how fast those go that have a driver."""
        return Pace(
            n_left=sum(block.pace.n_left for block in self.blocks.values()),
            rate=sum(b.pace.rate for b in self.blocks.values() if b.driver == "running"),
        )

    def as_dict(self) -> dict[str, Any]:
        """Sums over the blocks as `RunStatus.as_dict` has them, and ``blocks``, each for itself."""
        each = {name: block.as_dict() for name, block in self.blocks.items()}
        drivers = {block.driver for block in self.blocks.values()}
        return {
            "run": str(self.run),
            "driver": next((d for d in ("running", "stale") if d in drivers), "none"),
            "holder": "; ".join(b.holder for b in self.blocks.values() if b.holder),
            "finished": self.finished,
            "units": _added(part["units"] for part in each.values()),
            "ccds": _added(part["ccds"] for part in each.values()),
            "costs": {name: cost.as_dict() for name, cost in self.costs.items()},
            "hosts": {name: cost.as_dict() for name, cost in self.hosts.items()},
            "pace": self.pace.as_dict(),
            "deaths": {k: v for part in each.values() for k, v in part["deaths"].items()},
            "failures": [failure for part in each.values() for failure in part["failures"]],
            "doubts": [doubt for part in each.values() for doubt in part["doubts"]],
            "not_begun": list(self.not_begun),
            "blocks": each,
        }

    def __str__(self) -> str:
        lines = [str(block) for block in self.blocks.values()]
        if self.not_begun:
            lines.append(f"not begun: {', '.join(self.not_begun)}")
        done = sum(block.finished for block in self.blocks.values())
        lines.append(f"{done} of {len(self.blocks) + len(self.not_begun)} blocks finished")
        for stage, states in _added(b.units for b in self.blocks.values()).items():
            told = ", ".join(f"{n} {state}" for state, n in states.items() if n)
            lines.append(f"  {stage:8} units: {told}")
        lines += [f"  {stage:8} {cost}" for stage, cost in self.costs.items()]
        lines += [f"  host {host}: {cost}" for host, cost in self.hosts.items()]
        return "\n".join(lines)


def status_of(path: Path) -> RunStatus | BlocksStatus:
    """How a run, or the run in blocks of a folder, stands.

    Raises
    ------
    StoreError
        There is no run at `path`.
    """
    stores = run_stores(path)
    if stores == [path]:
        return status(path)
    listed = read_index(path / INDEX) if (path / INDEX).is_file() else stores
    begun = {store.stem for store in stores}
    return BlocksStatus(
        run=path,
        blocks={store.stem: status(store) for store in stores},
        not_begun=tuple(store.stem for store in listed if store.stem not in begun),
    )


def _added(parts: Iterable[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    total: dict[str, Counter[str]] = {}
    for part in parts:
        for stage, counts in part.items():
            total.setdefault(stage, Counter(dict.fromkeys(counts, 0))).update(counts)
    return {stage: dict(counts) for stage, counts in total.items()}
