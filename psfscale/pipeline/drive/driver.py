"""The driver's loop: hand out units, take their outcomes, and go on whatever dies."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from psfscale.errors import RunError
from psfscale.pipeline.drive.flight import Flight
from psfscale.pipeline.drive.plan import Plan, Todo
from psfscale.pipeline.drive.ready import Frontier, exposures_a_parcel
from psfscale.pipeline.events import (
    CcdFailed,
    ClusterLost,
    Event,
    Observer,
    UnitDied,
    UnitFinished,
    UnitSubmitted,
)
from psfscale.pipeline.ledger.journal import (
    History,
    begun_units,
    forget_attempt,
    note_death,
    read_history,
)
from psfscale.pipeline.ledger.lease import holds
from psfscale.pipeline.ledger.marker import Key, read_marker
from psfscale.pipeline.ledger.table import STRIDE, Books
from psfscale.pipeline.units.execute import quarantine
from psfscale.pipeline.units.mapping import Reason
from psfscale.pipeline.units.task import Task, overdue
from psfscale.pipeline.workers.executor import (
    Executor,
    ExecutorLostError,
    Outcome,
    Parcel,
    summary,
)
from psfscale.pipeline.workers.watch import blame_overdue, require_success

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from psfscale.config import Limits
    from psfscale.pipeline.ledger.lease import Lease
    from psfscale.pipeline.stages.resources import Amounts

WAIT = 0.5
"""Longest single wait for an outcome [s]: how soon an interruption is seen."""
GRACE = 60.0
"""Beyond the longest time of a unit, how long the driver waits without any outcome [s]."""
WAITS_BEFORE_BLAME = 10
"""Processes that died before a unit in them began, after which it is blamed all the same."""
SETTLE_UNITS, SETTLE_SECONDS = 512, 30.0
"""Finished units, or seconds, after which their markers are copied into the books."""
REFILL = 3
"""The executor's window is filled again when one part in so many of it is empty."""


@dataclass(kw_only=True)
class Driver:
    """Runs the units of a plan to their end.

    Attributes
    ----------
    run : path of the run store
    books : of the run
    lease : held by the caller
    limits : when to give up
    make_executor : a new executor, at the start and whenever one is lost
    restarts : executors in a row that may be lost without progress
    stop : whether the run was interrupted
    observers : are told every event
    """

    run: Path
    books: Books
    lease: Lease
    limits: Limits
    make_executor: Callable[[], Executor]
    restarts: int
    stop: Callable[[], bool]
    observers: tuple[Observer, ...]
    resources: Mapping[str, Amounts] = field(default_factory=dict)
    n_finished: int = 0
    n_good: int = 0
    n_failed: int = 0
    _seconds: float = 0.0
    _settled: float = field(default_factory=time.monotonic)
    _watched: float = field(default_factory=time.monotonic)
    _unsettled: list[Key] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)
    _attempts: dict[Key, int] = field(default_factory=dict)
    _waited: Counter[Key] = field(default_factory=Counter)
    _histories: dict[Key, History] = field(default_factory=dict)
    _flight: Flight = field(default_factory=Flight)
    _stages: tuple[str, ...] = ()
    _n_together: int = 1
    _stale: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), bool))

    def tell(self, event: Event) -> None:
        """Tell all observers."""
        for observer in self.observers:
            observer(event)

    def go(self, plan: Plan) -> None:
        """Run all units, or until interrupted.

        Raises
        ------
        RunError
            Too many CCDs failed, nothing can be written, executors were lost again and again,
            or another driver took the run over.
        """
        frontier = Frontier(plan, self.resources)
        self._stale = (plan.why > 0) & (plan.known.fingerprints > 0)
        self._stages = plan.wanted.stages
        self._n_together = max(int((plan.wanted.fingerprints > 0).sum(axis=1).max(initial=1)), 1)
        if plan.gathers_anew:  # what others did with the old results must not pass for done
            self._strike_out(0, len(self._stale))
        self._histories = begun_units(self.run)
        lost = 0
        try:
            while len(frontier) and not self.stop():
                before = self.n_finished
                try:
                    self._use_one_executor(frontier)
                except ExecutorLostError as error:
                    if self.stop():  # which may have ended the executor: no unit is blamed
                        break
                    lost = 1 if self.n_finished > before else lost + 1
                    if lost > self.restarts:
                        msg = f"gave up after {lost} clusters without progress: {error}"
                        raise RunError(msg) from error
                    self.tell(ClusterLost(reason=str(error), n_restarts=lost))
                    for flying in self._flight:
                        self._return(frontier, flying.task.key)
        except Exception:
            if not self.stop():  # else of workers that the signal ended, too
                raise
        finally:
            self._forget_interrupted()
            self._settle()

    def _forget_interrupted(self) -> None:
        """Count the end of this driver by a signal against no unit that was running."""
        if self.stop():
            for task in (flying.task for flying in self._flight):
                forget_attempt(self.run, task.key, attempt=task.attempt, lease=task.lease)

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
            if len(self._unsettled) >= SETTLE_UNITS or (
                self._unsettled and time.monotonic() - self._settled > SETTLE_SECONDS
            ):
                self._settle()
            self._require_life(time.monotonic() - latest)

    def _hand_out(self, frontier: Frontier, executor: Executor) -> None:
        """Fill the executor's window, once a part of it is empty: parcels cost less together."""
        room = executor.window - self._flight.n_parcels
        if room < max(executor.window // REFILL, 1):
            return
        parcels = list(takewhile(len, (self._next_parcel(frontier, executor) for _ in range(room))))
        if not parcels:
            return
        executor.submit(parcels)
        for task in chain.from_iterable(parcels):
            self.tell(
                UnitSubmitted(
                    stage=task.stage,
                    exposure=task.exposure,
                    attempt=task.attempt,
                    alone=task.alone,
                )
            )

    def _next_parcel(self, frontier: Frontier, executor: Executor) -> Parcel:
        """Units of the next exposure, or of several where they are short; empty if none is ready.

        A unit to be run alone is a parcel of its own, and a condemned one is given up at once.
        """
        number, parcel = next(self._numbers), list[Task]()
        left = self._exposures_a_parcel(len(frontier), executor)
        while left and (items := frontier.take()):
            self._strike_out(items[0].unit.exposure)
            n = self._together(items)
            special = n == 1 and self._is_special(items[0])
            apart = bool(parcel) and (special or self._wants(items[0]) != parcel[0].resources)
            for item in items[0 if apart else n :]:
                frontier.give_back(item.unit.key)
            if apart:
                break
            tasks = [self._begin(item, number) for item in items[:n]]
            if self._history(items[0]).condemned:
                self._give_up(frontier, tasks[0])
                continue
            parcel += tasks
            left = 0 if special else left - 1
        self._flight.seal(number, len(parcel))
        return tuple(parcel)

    def _together(self, items: list[Todo]) -> int:
        """How many of an exposure's units go together: a special one goes by itself."""
        special = [k for k, item in enumerate(items) if self._is_special(item)]
        return max(special[0], 1) if special else len(items)

    def _is_special(self, item: Todo) -> bool:
        history = self._history(item)
        return history.alone or history.condemned

    def _wants(self, item: Todo) -> tuple[tuple[str, float], ...]:
        return tuple(sorted(self.resources.get(item.unit.stage, {}).items()))

    def _history(self, item: Todo) -> History:
        return self._histories.get(item.unit.key, History())

    def _begin(self, item: Todo, parcel: int) -> Task:
        task = self._task(item)
        self._flight.begin(item, task, parcel)
        return task

    def _exposures_a_parcel(self, n_left: int, executor: Executor) -> int:
        """As many as take long enough for so many workers, and leave some for each of them."""
        if not self.n_finished or executor.window == 1:
            return 1
        seconds = self._seconds * self._n_together / self.n_finished
        share = n_left / (4 * executor.window * self._n_together)
        return exposures_a_parcel(seconds, share=share, n_workers=executor.n_workers)

    def _strike_out(self, first: int, n: int = STRIDE) -> None:
        """Strike what is about to change in `n` exposures out of the books."""
        found = np.argwhere(self._stale[first : first + n]).tolist()
        if found:
            self._require_lease()
            self.books.strike_out([(self._stages[k], first + i) for i, k in found])
            self._stale[first : first + n] = False

    def _task(self, item: Todo) -> Task:
        key = item.unit.key
        history = self._history(item)
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
            sample=item.sample,
            alone=history.alone,
            timeout=self.limits.unit_timeout,
            resources=self._wants(item),
        )

    def _take(self, frontier: Frontier, outcome: Outcome) -> None:
        task = outcome.task
        if not self._flight.holds(task):
            return
        if outcome.hopeless is not None:
            msg = f"{outcome.hopeless}: mend that; the same command resumes"
            raise RunError(msg)
        if outcome.died is not None:
            self._take_death(frontier, task, outcome.died)
        elif outcome.error is not None:
            self._quarantine(frontier, task, outcome.error)
        elif outcome.counts is not None:
            self._finish(frontier, outcome)
        elif not self.stop():  # else it stays in flight, to be forgotten with the others
            self._return(frontier, task.key)

    def _take_death(self, frontier: Frontier, task: Task, reason: str) -> None:
        """A unit that was running is blamed; one that only waited in the dead process is not.

        None is after a signal to this driver, which may have reached the process too.
        """
        if self.stop():
            return
        history = read_history(self.run, task.key)
        began = history.began(task.attempt, task.lease)
        self._waited[task.key] += not began
        if began or self._waited[task.key] >= WAITS_BEFORE_BLAME:
            age = time.time() - history.attempts[-1]["time"] if began else 0
            if task.timeout is not None and age >= task.timeout:
                reason = overdue(task)
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
        self._flight.land(key)
        frontier.give_back(key)

    def _finish(self, frontier: Frontier, outcome: Outcome) -> None:
        task, counts = outcome.task, outcome.counts or {}
        item = self._flight.land(task.key).item
        self._histories.pop(task.key, None)
        self._attempts.pop(task.key, None)
        self._waited.pop(task.key, None)
        frontier.finish(task.key)
        self._unsettled.append(task.key)
        self._seconds += counts["seconds"]
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

    def _settle(self) -> None:
        """Copy the markers of finished units into the books, which are the lease holder's."""
        if not holds(self.run, self.lease.token):
            return
        found = (read_marker(self.run, key) for key in self._unsettled)
        self.books.take_in([marker for marker in found if marker is not None])
        self._unsettled.clear()
        self._settled = time.monotonic()

    def _tell_failures(self, task: Task) -> None:
        marker = read_marker(self.run, task.key)
        for failure in marker.failures if marker else ():
            self.tell(CcdFailed.of(failure))

    def _require_life(self, silence: float) -> None:
        """Stop where going on makes no sense: lease lost, too many failures, no progress."""
        if self.lease.lost.is_set():
            self._require_lease()
        require_success(self.n_good, self.n_failed, self.limits, self.run)
        if time.monotonic() - self._watched < WAIT:  # it takes a look at every unit in flight
            return
        self._watched = time.monotonic()
        limit = self.limits.unit_timeout
        flying = ((unit.task, unit.since) for unit in self._flight)
        blamed = blame_overdue(self.run, flying, limit + GRACE)
        self._histories |= blamed
        if blamed:
            n = len(blamed)
            msg = f"{n} units have not ended in their time, nor has their worker ended them"
            raise ExecutorLostError(msg)
        if self._flight and silence > limit * self._n_together + GRACE:
            msg = f"no unit has ended for {silence:.0f} s"
            raise ExecutorLostError(msg)

    def _require_lease(self) -> None:
        if not holds(self.run, self.lease.token):
            msg = f"another driver has taken {self.run} over; this one stops"
            raise RunError(msg)
