"""Progress for people: a bar on a terminal, a line every tenth elsewhere."""

from __future__ import annotations

from functools import singledispatchmethod
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from psfscale.pipeline.events import (
    CcdFailed,
    ClusterLost,
    Event,
    Notice,
    RunFinished,
    RunStarted,
    UnitDied,
    UnitFinished,
    UnitSubmitted,
)

if TYPE_CHECKING:
    from rich.progress import TaskID


class ProgressBar:
    """Units done, rate, time left, failures and units in flight; an `Observer`."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("run"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task: TaskID | None = None
        self._began = 0.0
        self._total = self._finished = self._failed = self._in_flight = self._tenth = 0

    @singledispatchmethod
    def __call__(self, event: Event) -> None:
        """Take note of an event; kinds it does not show pass by."""

    @__call__.register
    def _(self, event: RunStarted) -> None:
        self._began, self._total = event.time, event.n_units
        self._task = self._bar.add_task("", total=event.n_units, rate="", note="")
        self._bar.start()

    @__call__.register
    def _(self, event: Notice) -> None:
        self.console.print(event.text, markup=False)

    @__call__.register
    def _(self, _event: UnitSubmitted) -> None:
        self._in_flight += 1
        self._show()

    @__call__.register
    def _(self, event: UnitFinished) -> None:
        self._finished += 1
        self._in_flight -= 1
        self._show(event.time)
        if self._bar.disable and 10 * self._finished // max(self._total, 1) > self._tenth:
            self._tenth = 10 * self._finished // self._total
            self.console.print(f"run {self._finished}/{self._total} units, {self._note()}")

    @__call__.register
    def _(self, event: CcdFailed) -> None:
        self._failed += 1
        where = f"{event.stage} {event.exposure_id} CCD {event.ccd_id}"
        self.console.print(f"quarantined: {where}: {event.reason}", markup=False)

    @__call__.register
    def _(self, event: UnitDied) -> None:
        self._in_flight -= 1
        self.console.print(
            f"{event.stage} of exposure {event.exposure} killed its process "
            f"(death {event.n_deaths}): {event.reason}",
            markup=False,
        )

    @__call__.register
    def _(self, event: ClusterLost) -> None:
        self._in_flight = 0
        self.console.print(f"cluster lost, building a new one: {event.reason}", markup=False)

    @__call__.register
    def _(self, _event: RunFinished) -> None:
        self._bar.stop()

    def _note(self) -> str:
        return f"{self._failed} CCDs failed, {self._in_flight} units in flight"

    def _show(self, now: float | None = None) -> None:
        if self._task is None:
            return
        self._bar.update(self._task, completed=self._finished, note=self._note())
        if now is not None and now > self._began:
            rate = self._finished / (now - self._began)
            self._bar.update(self._task, rate=f"{rate:.2g} units/s")
