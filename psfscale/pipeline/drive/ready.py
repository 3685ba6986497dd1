"""Which units of a plan may run now."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

import numpy as np

from psfscale.pipeline.drive.plan import gathered, needed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psfscale.pipeline.drive.plan import Plan, Todo
    from psfscale.pipeline.ledger.marker import Key
    from psfscale.pipeline.stages.resources import Amounts

PARCEL_SECONDS, PARCEL_EXPOSURES = 2.0, 32
"""Work that a worker is given at a time where units are short."""
PARCELS_A_SECOND = 100
"""Of all workers, at most: a third of what driver and scheduler can serve; binds beyond 200."""


class Frontier:
    """Which of the units to do may run now: those that need nothing unfinished.

    Exposures go in order, and an exposure is finished before a later one is begun, so that
    products become whole early and the inputs of a stage are still warm. Units of an exposure
    that need only one another are handed out together, to be run one after the other, as far as
    they want the same of a worker.

    Parameters
    ----------
    plan : of the run
    resources : that units want of a worker, by stage
    """

    def __init__(self, plan: Plan, resources: Mapping[str, Amounts] | None = None) -> None:
        self._plan = plan
        self._stages = plan.wanted.stages
        self._left = plan.why > 0
        self._flying = np.zeros(self._left.shape, bool)
        self._left_of = self._left.sum(axis=0)
        self._needs = [needed(self._stages, k) for k in range(len(self._stages))]
        self._gathers = [gathered(self._stages, k) for k in range(len(self._stages))]
        self._wants = [dict((resources or {}).get(name, {})) for name in self._stages]
        self._next = 0
        self._again: list[int] = []

    def __len__(self) -> int:
        """Units not finished yet."""
        return int(self._left_of.sum())

    def take(self) -> list[Todo]:
        """Units of the next exposure that may run, in order; none where all such are taken."""
        while (exposure := self._next_exposure()) is not None:
            chosen = self._ready(exposure)
            if chosen:
                self._flying[exposure, chosen] = True
                if any(self._wants) and self._ready(exposure):
                    heappush(self._again, exposure)
                return [self._plan.item(exposure, k) for k in chosen]
        return []

    def give_back(self, key: Key) -> None:
        """A unit that was taken is to run again."""
        self._flying[key[1], self._stages.index(key[0])] = False
        heappush(self._again, key[1])

    def finish(self, key: Key) -> None:
        """A unit that was taken is finished; those that waited for it alone may run."""
        place = key[1], self._stages.index(key[0])
        self._left[place] = self._flying[place] = False
        self._left_of[place[1]] -= 1
        if not self._left_of[place[1]]:
            self._free_gathering(place[1])
        if (self._left[key[1]] & ~self._flying[key[1]]).any():
            heappush(self._again, key[1])

    def _free_gathering(self, k: int) -> None:
        """Look again at exposures that were passed by for want of the stage number `k`."""
        waiting = [other for other, gathers in enumerate(self._gathers) if k in gathers]
        passed = (self._left & ~self._flying)[: self._next, waiting].any(axis=1)
        for exposure in np.flatnonzero(passed).tolist():
            heappush(self._again, exposure)

    def _next_exposure(self) -> int | None:
        if self._again:
            return heappop(self._again)
        n = len(self._left)
        while self._next < n and not self._left[self._next].any():
            self._next += 1
        if self._next == n:
            return None
        self._next += 1
        return self._next - 1

    def _ready(self, exposure: int) -> list[int]:
        left, flying = self._left[exposure], self._flying[exposure]
        chosen: list[int] = []
        for k in np.flatnonzero(left & ~flying).tolist():
            if chosen and self._wants[k] != self._wants[chosen[0]]:
                continue
            free = not any(self._left_of[g] for g in self._gathers[k])
            if free and all(not left[need] or need in chosen for need in self._needs[k]):
                chosen.append(k)
        return chosen


def exposures_a_parcel(seconds: float, *, share: float, n_workers: int) -> int:
    """Return how many exposures take long enough to be handed out at a time.

    Parameters
    ----------
    seconds : that the units of an exposure take, on average
    share : exposures left for each parcel that workers are to have
    n_workers : that are served
    """
    wanted = max(PARCEL_SECONDS, n_workers / PARCELS_A_SECOND) / max(seconds, 1e-3)
    return int(max(1, min(wanted, share, PARCEL_EXPOSURES)))
