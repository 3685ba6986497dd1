"""Progress of runs for people: CCDs gone over, in all stages and by all drivers."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import partial, singledispatchmethod
from typing import TYPE_CHECKING, Self

from psfscale.pipeline.events import (
    CcdFailed,
    ClusterLost,
    Event,
    Notice,
    RunFinished,
    RunStarted,
    UnitAdvanced,
    UnitDied,
    UnitFinished,
    UnitSubmitted,
)
from psfscale.pipeline.events.gauge import Gauge

if TYPE_CHECKING:
    from rich.console import Console

    from psfscale.pipeline.events import Observer

Place = tuple[int, str, int]
"""Driver, stage and exposure of a unit."""


class ProgressBar:
    """What is done of the runs of one driver or several; an `Observer`, and a context manager.

    A step is one CCD in one stage. The time left is that of the steps left, each as long as those
    of its stage have been on average.

    Parameters
    ----------
    console : to write to; the error stream if not given
    n_runs : run stores that are worked on, one after the other or side by side
    """

    def __init__(self, console: Console | None = None, *, n_runs: int = 1) -> None:
        self.gauge = Gauge("run", "CCD steps", console)
        self._n_runs, self._n_over = n_runs, 0
        self._total, self._done = Counter[str](), Counter[str]()
        self._seconds: dict[str, float] = defaultdict(float)
        self._running: dict[Place, int] = {}
        self._n_failed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.gauge.close()

    def __call__(self, event: Event) -> None:
        """Take note of an event of the only driver."""
        self.take(event, 0)

    def of(self, driver: int) -> Observer:
        """Return an observer of one of several drivers."""
        return partial(self._of, driver)

    def _of(self, driver: int, event: Event) -> None:
        self.take(event, driver)

    @singledispatchmethod
    def take(self, event: Event, driver: int) -> None:
        """Take note of a driver's event; kinds it does not show pass by."""

    @take.register
    def _(self, event: RunStarted, _driver: int) -> None:
        self._total.update(event.steps)
        self._show()

    @take.register
    def _(self, event: Notice, _driver: int) -> None:
        self._say(event.text)

    @take.register
    def _(self, event: UnitSubmitted, driver: int) -> None:
        self._running[driver, event.stage, event.exposure] = 0
        self._show()

    @take.register
    def _(self, event: UnitAdvanced, driver: int) -> None:
        self._running[driver, event.stage, event.exposure] = event.n_ccds
        self._show()

    @take.register
    def _(self, event: UnitFinished, driver: int) -> None:
        self._running.pop((driver, event.stage, event.exposure), None)
        self._done[event.stage] += _n_ccds(event)
        self._seconds[event.stage] += event.seconds
        self._show()

    @take.register
    def _(self, event: CcdFailed, _driver: int) -> None:
        self._n_failed += 1
        where = f"{event.stage} {event.exposure_id} CCD {event.ccd_id}"
        self._say(f"quarantined: {where}: {event.reason}")

    @take.register
    def _(self, event: UnitDied, driver: int) -> None:
        self._running.pop((driver, event.stage, event.exposure), None)
        self._say(
            f"{event.stage} of exposure {event.exposure} killed its process "
            f"(death {event.n_deaths}): {event.reason}"
        )
        self._show()

    @take.register
    def _(self, event: ClusterLost, driver: int) -> None:
        self._forget(driver)
        self._say(f"cluster lost, building a new one: {event.reason}")
        self._show()

    @take.register
    def _(self, _event: RunFinished, driver: int) -> None:
        self._n_over += 1
        self._forget(driver)
        self._show()

    def _forget(self, driver: int) -> None:
        self._running = {place: n for place, n in self._running.items() if place[0] != driver}

    def _say(self, text: str) -> None:
        self.gauge.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _show(self) -> None:
        done = self._done + Counter()
        for (_, stage, _), n_ccds in self._running.items():
            done[stage] += n_ccds
        note = f"{self._n_failed} failed, {len(self._running)} units in flight"
        if self._n_runs > 1:
            note += f", {self._n_over} of {self._n_runs} blocks over"
        total = self._total.total()
        self.gauge.show(min(done.total(), total), total, note, share=self._share(done))

    def _share(self, done: Counter[str]) -> float | None:
        """Return the share of the work that is done; None while no stage's time is known."""
        each = {stage: self._seconds[stage] / n for stage, n in self._done.items() if n}
        if not each:
            return None
        usual = sum(each.values()) / len(each)
        work = sum(n * each.get(stage, usual) for stage, n in self._total.items())
        return sum(n * each.get(stage, usual) for stage, n in done.items()) / work if work else None


def _n_ccds(event: UnitFinished) -> int:
    n_without = event.n_empty + event.n_failed + event.n_blocked
    return event.n_done + event.n_doubtful + n_without
