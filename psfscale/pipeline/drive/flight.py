"""Units that an executor has, and the parcels they are in."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psfscale.pipeline.drive.plan import Todo
    from psfscale.pipeline.ledger.marker import Key
    from psfscale.pipeline.units.task import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Flying:
    """A unit that an executor has, and the number of its parcel."""

    item: Todo
    task: Task
    parcel: int
    since: float = field(default_factory=time.time)


class Flight:
    """Units that an executor has; its parcels are the numbers of theirs."""

    def __init__(self) -> None:
        self._units: dict[Key, Flying] = {}
        self._parcels: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._units)

    def __iter__(self) -> Iterator[Flying]:
        return iter(list(self._units.values()))

    @property
    def n_parcels(self) -> int:
        """Parcels of which a unit has not ended."""
        return len(self._parcels)

    def begin(self, item: Todo, task: Task, parcel: int) -> None:
        """Take note of a unit that is handed out."""
        self._units[task.key] = Flying(item=item, task=task, parcel=parcel)

    def seal(self, parcel: int, n: int) -> None:
        """Take note of a parcel of `n` units."""
        if n:
            self._parcels[parcel] = n

    def holds(self, task: Task) -> bool:
        """Whether this very attempt is under way, not one of an executor that was given up."""
        flying = self._units.get(task.key)
        return flying is not None and flying.task == task

    def land(self, key: Key) -> Flying:
        """Forget a unit, and its parcel with its last unit."""
        flying = self._units.pop(key)
        n_left = self._parcels.get(flying.parcel, 1) - 1
        if n_left:
            self._parcels[flying.parcel] = n_left
        else:
            self._parcels.pop(flying.parcel, None)
        return flying
