"""What runs units for the driver: here, in this process; `psfscale.pipeline.cluster`, on Dask."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from psfscale.arrays import UnitState
from psfscale.pipeline.unit import Reason, Task, UnitInterrupted, execute, execute_alone, explain

if TYPE_CHECKING:
    from collections.abc import Callable

    from psfscale.pipeline.ledger.marker import Marker


class ExecutorLostError(Exception):
    """The executor can run nothing more; a new one may."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How an attempt at a unit ended: exactly one of `counts`, `died` and `error` is set.

    Attributes
    ----------
    task : what was asked
    counts : CCDs by state, seconds, peak memory and host, of a unit that has its marker
    died : how the unit's process died
    error : type, message and traceback of an error that was not a CCD's
    """

    task: Task
    counts: dict[str, Any] | None = None
    died: str | None = None
    error: Reason | None = None


class Executor(Protocol):
    """Runs units, one or many at a time."""

    @property
    def n_workers(self) -> int:
        """Units that run at the same time."""
        ...

    @property
    def window(self) -> int:
        """Units it wants to be given at a time."""
        ...

    def submit(self, task: Task) -> None:
        """Take a unit."""
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
    """One unit at a time, in this process."""

    n_workers = window = 1

    def __init__(self, stop: Callable[[], bool]) -> None:
        self._stop = stop
        self._tasks: deque[Task] = deque()

    def submit(self, task: Task) -> None:
        """Take a unit."""
        self._tasks.append(task)

    def collect(self, timeout: float) -> list[Outcome]:  # noqa: ARG002 (a unit takes what it takes)
        """Run the next unit; nothing is returned if the run was interrupted in it."""
        task = self._tasks.popleft()
        try:
            return [outcome_of(task, attempt(task, stop=self._stop))]
        except UnitInterrupted:
            return []
        except Exception as error:  # noqa: BLE001 (a failing unit is quarantined, the run goes on)
            return [Outcome(task=task, error=explain(error))]

    def close(self, *, kill: bool) -> None:
        """Nothing is left running."""


def attempt(task: Task, *, stop: Callable[[], bool] = lambda: False) -> dict[str, Any] | str:
    """Run a unit and sum it up in less than 1 kB, or say how its child process died."""
    ended = execute_alone(task) if task.alone else execute(task, stop=stop)
    return ended if isinstance(ended, str) else summary(ended)


def outcome_of(task: Task, ended: dict[str, Any] | str) -> Outcome:
    """The outcome of what `attempt` returned."""
    if isinstance(ended, str):
        return Outcome(task=task, died=ended)
    return Outcome(task=task, counts=ended)


def summary(marker: Marker) -> dict[str, Any]:
    """What of a marker goes through the scheduler."""
    return {
        "n_done": marker.count(UnitState.DONE),
        "n_empty": marker.count(UnitState.EMPTY),
        "n_failed": marker.count(UnitState.QUARANTINED),
        "n_blocked": marker.count(UnitState.BLOCKED),
        "seconds": marker.seconds,
        "peak_memory": marker.peak_memory,
        "host": marker.host,
    }
