"""How far a command has come: a bar on a terminal, a line every half minute elsewhere."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn
from rich.table import Column
from rich.text import Text

if TYPE_CHECKING:
    from rich.progress import Task, TaskID

LINE_EVERY = 30.0
"""Seconds between two lines where there is no terminal."""


class Gauge:
    """Show what is done of how much, at what rate, since when, and about how much time is left.

    Parameters
    ----------
    what : name of the command
    unit : what is counted, in the plural
    console : to write to; the error stream if not given
    """

    def __init__(self, what: str, unit: str, console: Console | None = None) -> None:
        self.what, self.unit = what, unit
        self.console = console or Console(stderr=True)
        self.done = self.total = 0
        self.note = ""
        self._share = 0.0
        self._began: float | None = None
        self._bar = Progress(
            BarColumn(bar_width=10), _Line(self), console=self.console, disable=not self.is_live
        )
        self._task: TaskID | None = None
        self._ended = threading.Event()

    @property
    def is_live(self) -> bool:
        """Whether a bar moves on a terminal."""
        return self.console.is_terminal

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def show(self, done: int, total: int, note: str = "", *, share: float | None = None) -> None:
        """Take note of how far it is.

        Parameters
        ----------
        done, total : in units
        note : what else there is to say
        share : of the work that is done, where units differ; ``done / total`` if not given
        """
        self.done, self.total, self.note = done, total, note
        self._share = done / max(total, 1) if share is None else share
        if self._began is None and total:
            self._start()
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=total)

    def close(self) -> None:
        """End the display; without a terminal, a last line says how far it came."""
        if self._began is None or self._ended.is_set():
            return
        self._ended.set()
        self._bar.stop()
        if not self.is_live:
            self._say_line()

    def line(self) -> str:
        """Return all in one line."""
        elapsed = 0.0 if self._began is None else time.monotonic() - self._began
        said = f"{self.what} {self.done}/{self.total} {self.unit}"
        if self.done and elapsed:
            said += f", {self.done / elapsed:.2g}/s"
        said += f", {_clock(elapsed)} elapsed"
        if 0 < self._share < 1:
            said += f", about {_clock(elapsed * (1 - self._share) / self._share)} left"
        return f"{said}; {self.note}" if self.note else said

    def _start(self) -> None:
        self._began = time.monotonic()
        if self.is_live:
            self._task = self._bar.add_task("", total=self.total)
            self._bar.start()
            return
        self._say_line()
        threading.Thread(target=self._say_lines, name="gauge", daemon=True).start()

    def _say_lines(self) -> None:
        while not self._ended.wait(LINE_EVERY):
            self._say_line()

    def _say_line(self) -> None:
        self.console.print(self.line(), markup=False, highlight=False, soft_wrap=True)


class _Line(ProgressColumn):
    """The line of a gauge beside its bar."""

    def __init__(self, gauge: Gauge) -> None:
        super().__init__(Column(no_wrap=True, overflow="ellipsis"))
        self._gauge = gauge

    def render(self, task: Task) -> Text:  # noqa: ARG002 (rich calls it so)
        return Text(self._gauge.line())


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
