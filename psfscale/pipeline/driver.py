"""The driver's loop: hand out units, take their outcomes, and go on whatever dies."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from psfscale.errors import RunError
from psfscale.pipeline.events import (
    CcdFailed,
    ClusterLost,
    Event,
    Observer,
    UnitDied,
    UnitFinished,
    UnitSubmitted,
)
from psfscale.pipeline.executor import Executor, ExecutorLostError, Outcome, summary
from psfscale.pipeline.ledger.journal import History, begun_units, note_death, read_history
from psfscale.pipeline.ledger.marker import Key, read_marker
from psfscale.pipeline.plan import Frontier, Todo
from psfscale.pipeline.unit import Reason, Task, quarantine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from psfscale.config import Limits
    from psfscale.pipeline.ledger.lease import Lease

WAIT = 0.5
"""Longest single wait for an outcome [s]: how soon an interruption is seen."""
GRACE = 60.0
"""Beyond the longest time of a unit, how long the driver waits without any outcome [s]."""


@dataclass(kw_only=True)
class Driver:
    """Runs the units of a plan to their end.

    Attributes
    ----------
    run : path of the run store
    lease : held by the caller
    limits : when to give up
    make_executor : a new executor, at the start and whenever one is lost
    restarts : executors in a row that may be lost without progress
    stop : whether the run was interrupted
    observers : are told every event
    """

    run: Path
    lease: Lease
    limits: Limits
    make_executor: Callable[[], Executor]
    restarts: int
    stop: Callable[[], bool]
    observers: tuple[Observer, ...]
    n_finished: int = 0
    n_good: int = 0
    n_failed: int = 0
    _attempts: dict[Key, int] = field(default_factory=dict)
    _histories: dict[Key, History] = field(default_factory=dict)
    _flight: dict[Key, tuple[Todo, Task, float]] = field(default_factory=dict)

    def tell(self, event: Event) -> None:
        """Tell all observers."""
        for observer in self.observers:
            observer(event)

    def go(self, todo: Iterable[Todo]) -> None:
        """Run all units, or until interrupted.

        Raises
        ------
        RunError
            Too many CCDs failed, executors were lost again and again, or another driver took
            the run over.
        """
        frontier = Frontier(todo)
        self._histories = begun_units(self.run)
        lost = 0
        while len(frontier) and not self.stop():
            before = self.n_finished
            try:
                self._use_one_executor(frontier)
            except ExecutorLostError as error:
                lost = 1 if self.n_finished > before else lost + 1
                if lost > self.restarts:
                    msg = f"gave up after {lost} clusters without progress: {error}"
                    raise RunError(msg) from error
                self.tell(ClusterLost(reason=str(error), n_restarts=lost))
                for key in list(self._flight):
                    self._return(frontier, key)

    def _use_one_executor(self, frontier: Frontier) -> None:
        executor = self.make_executor()
        ended = False
        try:
            self._drive(frontier, executor)
            ended = not self._flight
        finally:
            executor.close(kill=not ended)

    def _drive(self, frontier: Frontier, executor: Executor) -> None:
        latest = time.monotonic()
        while len(frontier) and not self.stop():
            self._hand_out(frontier, executor)
            outcomes = executor.collect(WAIT) if self._flight else []
            for outcome in outcomes:
                self._take(frontier, outcome)
            if outcomes:
                latest = time.monotonic()
            self._require_life(time.monotonic() - latest)

    def _hand_out(self, frontier: Frontier, executor: Executor) -> None:
        room = executor.window - len(self._flight)
        while room > 0 and (item := frontier.take()) is not None:
            task = self._task(item)
            self._flight[item.unit.key] = (item, task, time.time())
            if self._histories.get(task.key, History()).condemned:
                self._give_up(frontier, task)
                continue
            executor.submit(task)
            self.tell(
                UnitSubmitted(
                    stage=task.stage, exposure=task.exposure, attempt=task.attempt, alone=task.alone
                )
            )
            room -= 1

    def _task(self, item: Todo) -> Task:
        key = item.unit.key
        history = self._histories.get(key, History())
        attempt = self._attempts.get(key, len(history.attempts)) + 1
        self._attempts[key] = attempt
        return Task(
            run=str(self.run),
            stage=item.unit.stage,
            exposure=item.unit.exposure,
            fingerprint=item.unit.fingerprint,
            attempt=attempt,
            lease=self.lease.token,
            keep=item.keep,
            alone=history.alone,
            timeout=self.limits.unit_timeout,
        )

    def _take(self, frontier: Frontier, outcome: Outcome) -> None:
        task = outcome.task
        if self._flight.get(task.key, (None, None))[1] != task:
            return  # of an executor that was given up
        if outcome.died is not None:
            self._take_death(frontier, task, outcome.died)
        elif outcome.error is not None:
            self._quarantine(frontier, task, outcome.error)
        else:
            self._finish(frontier, outcome)

    def _take_death(self, frontier: Frontier, task: Task, reason: str) -> None:
        """A unit that was running is blamed; one that only waited in the dead process is not."""
        history = read_history(self.run, task.key)
        if history.began(task.attempt, task.lease):
            age = time.time() - history.attempts[-1]["time"]
            if task.timeout is not None and age >= task.timeout:
                reason = f"took more than {task.timeout:g} s"
            history = note_death(self.run, task.key, reason)
            self._histories[task.key] = history
            n_deaths = len(history.deaths)
            self.tell(
                UnitDied(stage=task.stage, exposure=task.exposure, n_deaths=n_deaths, reason=reason)
            )
        if history.condemned:
            self._give_up(frontier, task)
        else:
            self._return(frontier, task.key)

    def _give_up(self, frontier: Frontier, task: Task) -> None:
        deaths = self._histories[task.key].deaths
        message = f"the unit killed its process {len(deaths)} times, last: {deaths[-1]}"
        self._quarantine(frontier, task, ("ProcessDied", message, "\n".join(deaths)))

    def _quarantine(self, frontier: Frontier, task: Task, reason: Reason) -> None:
        marker = quarantine(task, reason)
        self._finish(frontier, Outcome(task=task, counts=summary(marker)))

    def _return(self, frontier: Frontier, key: Key) -> None:
        del self._flight[key]
        frontier.give_back(key)

    def _finish(self, frontier: Frontier, outcome: Outcome) -> None:
        task, counts = outcome.task, outcome.counts or {}
        item, _, _ = self._flight.pop(task.key)
        self._histories.pop(task.key, None)
        self._attempts.pop(task.key, None)
        frontier.finish(task.key)
        self.n_finished += 1
        self.n_good += counts["n_done"]
        self.n_failed += counts["n_failed"]
        self.tell(
            UnitFinished(
                stage=task.stage,
                exposure=task.exposure,
                exposure_id=item.unit.exposure_id,
                **counts,
            )
        )
        if counts["n_failed"]:
            self._tell_failures(task)

    def _tell_failures(self, task: Task) -> None:
        marker = read_marker(self.run, task.key)
        for failure in marker.failures if marker else ():
            self.tell(
                CcdFailed(
                    stage=failure.stage,
                    exposure_id=failure.exposure_id,
                    ccd_id=failure.ccd_id,
                    reason=f"{failure.type}: {failure.message}",
                )
            )

    def _require_life(self, silence: float) -> None:
        """Stop where going on makes no sense: lease lost, too many failures, no progress."""
        if self.lease.lost.is_set():
            msg = f"another driver has taken {self.run} over; this one stops"
            raise RunError(msg)
        total = self.n_good + self.n_failed
        limits = self.limits
        if self.n_failed >= limits.failed_minimum and (
            self.n_failed > limits.failed_fraction * total
        ):
            msg = (
                f"{self.n_failed} of {total} CCDs failed, more than limits.failed_fraction "
                f"{limits.failed_fraction:g}; see `psfscale status {self.run}`, and raise the "
                "limit or mend the cause"
            )
            raise RunError(msg)
        overdue = self._blame_overdue()
        if overdue:
            msg = f"{overdue} units have not ended in their time, nor has their worker ended them"
            raise ExecutorLostError(msg)
        if self._flight and silence > limits.unit_timeout + GRACE:
            msg = f"no unit has ended for {silence:.0f} s"
            raise ExecutorLostError(msg)

    def _blame_overdue(self) -> int:
        """Blame units that run longer than a live worker would let them; returns how many.

        A worker ends itself when its unit takes too long; one that cannot is stuck.
        """
        now, n_overdue = time.time(), 0
        for key, (_, task, submitted) in self._flight.items():
            if now - submitted < self.limits.unit_timeout + GRACE:
                continue
            history = read_history(self.run, key)
            if not history.began(task.attempt, task.lease):
                continue
            if now - history.attempts[-1]["time"] > self.limits.unit_timeout + GRACE:
                reason = f"took more than {self.limits.unit_timeout:g} s"
                self._histories[key] = note_death(self.run, key, reason)
                n_overdue += 1
        return n_overdue


def peak_memory() -> int:
    """Largest resident memory of this process so far [byte]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
