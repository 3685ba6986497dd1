"""What runs units for the driver: here, in this process; on Dask, `workers.cluster`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from psfscale.arrays import UnitState
from psfscale.errors import HOPELESS
from psfscale.pipeline.ledger.marker import read_marker
from psfscale.pipeline.stages.registry import NEEDS
from psfscale.pipeline.units.deadline import UnitOverdue, alarm
from psfscale.pipeline.units.execute import execute, execute_alone, prepare
from psfscale.pipeline.units.mapping import Reason, UnitInterrupted, explain
from psfscale.pipeline.units.task import Task, overdue

if TYPE_CHECKING:
    from psfscale.pipeline.ledger.marker import Key, Marker

Parcel = tuple[Task, ...]
"""Units run one after the other by one worker, each after those it needs."""
Advance = Callable[[Task, int], None]
"""Takes a unit that runs, and the number of CCDs that it has gone over."""


class ExecutorLostError(Exception):
    """The executor can run nothing more; a new one may."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How an attempt at a unit ended; with only `task` set, it was not tried.

    Attributes
    ----------
    task : what was asked
    counts : CCDs by state, cost and host, of a unit that has its marker
    died : how the unit's process died
    error : type, message and traceback of an error that was not a CCD's
    hopeless : an error that every unit would meet
    """

    task: Task
    counts: dict[str, Any] | None = None
    died: str | None = None
    error: Reason | None = None
    hopeless: str | None = None


class Executor(Protocol):
    """Runs units, one or many at a time."""

    @property
    def n_workers(self) -> int:
        """Parcels that run at the same time."""
        ...

    @property
    def window(self) -> int:
        """Parcels it wants to be given at a time."""
        ...

    def submit(self, parcels: Sequence[Parcel]) -> None:
        """Take units."""
        ...

    def collect(self, timeout: float) -> list[Outcome]:
        """What ended; waits up to `timeout` seconds for a first one.

        Raises
        ------
        ExecutorLostError
            Nothing more will end.
        """
        ...

    def close(self, *, kill: bool) -> None:
        """End; with `kill`, without waiting for units that run."""
        ...


class SerialExecutor:
    """One parcel at a time, in this process."""

    n_workers = window = 1

    def __init__(self, stop: Callable[[], bool], advance: Advance = lambda *_: None) -> None:
        self._stop, self._advance = stop, advance
        self._parcels: deque[Parcel] = deque()

    def submit(self, parcels: Sequence[Parcel]) -> None:
        """Take units."""
        self._parcels += parcels

    def collect(self, timeout: float) -> list[Outcome]:  # noqa: ARG002 (a unit takes what it takes)
        """Run the next parcel; of a unit in which the run was interrupted nothing is returned."""
        ended: list[Outcome] = []
        try:
            parcel = self._parcels.popleft()
            for outcome in run_parcel(parcel, guard=_alarm, stop=self._stop, advance=self._advance):
                ended.append(outcome)  # noqa: PERF402 (what ended before an interruption is kept)
        except UnitInterrupted:
            pass
        return ended

    def close(self, *, kill: bool) -> None:
        """Nothing is left running."""


def _alarm(task: Task) -> AbstractContextManager[None]:
    return alarm(task.timeout)


def run_parcel(
    parcel: Sequence[Task],
    *,
    guard: Callable[[Task], AbstractContextManager[None]],
    stop: Callable[[], bool] = lambda: False,
    advance: Advance = lambda *_: None,
) -> Iterator[Outcome]:
    """Run units in order; those that need one that did not end well are not tried.

    Parameters
    ----------
    parcel : the units
    guard : ends a unit that takes too long
    stop : whether the run was interrupted
    advance : takes a unit and the number of CCDs that it has gone over
    """
    lost: set[Key] = set()
    for task in parcel:
        if any((need, task.exposure) in lost for need in NEEDS[task.stage]):
            outcome = Outcome(task=task)
        else:
            outcome = _attempt(task, guard, stop, partial(advance, task))
        if outcome.counts is None:
            lost.add(task.key)
        yield outcome


def _attempt(
    task: Task,
    guard: Callable[[Task], AbstractContextManager[None]],
    stop: Callable[[], bool],
    advance: Callable[[int], None],
) -> Outcome:
    try:
        if task.alone:
            ended = execute_alone(task, stop=stop)
        else:
            prepare(task)
            with guard(task):
                ended = execute(task, stop=stop, advance=advance)
    except UnitOverdue:
        return Outcome(task=task, died=overdue(task))
    except Exception as error:  # noqa: BLE001 (a failing unit is quarantined, the run goes on)
        if isinstance(error, OSError) and error.errno in HOPELESS:
            return Outcome(task=task, hopeless=str(error))
        return Outcome(task=task, error=explain(error))
    if isinstance(ended, str):
        return Outcome(task=task, died=ended)
    return Outcome(task=task, counts=summary(ended))


def ended_before(task: Task) -> Outcome | None:
    """The outcome of a unit that had its marker when its worker died, or None."""
    marker = read_marker(Path(task.run), task.key)
    if marker is None or marker.fingerprint != task.fingerprint:
        return None
    return Outcome(task=task, counts=summary(marker))


def summary(marker: Marker) -> dict[str, Any]:
    """What of a marker goes through the scheduler: less than 1 kB."""
    return {
        "n_done": marker.count(UnitState.DONE),
        "n_empty": marker.count(UnitState.EMPTY),
        "n_failed": marker.count(UnitState.QUARANTINED),
        "n_blocked": marker.count(UnitState.BLOCKED),
        "n_doubtful": marker.count(UnitState.DOUBTFUL),
        "seconds": marker.cost.seconds,
        "cpu_seconds": marker.cost.cpu_seconds,
        "peak_memory": marker.cost.peak_memory,
        "host": marker.host,
    }
