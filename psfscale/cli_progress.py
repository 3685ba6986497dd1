"""How far a command has come, on a terminal and without one."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


@contextmanager
def progress(what: str, unit: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show progress; gives a function of what is done, the total, and a note."""
    from psfscale.pipeline.events.gauge import Gauge

    with Gauge(what, unit) as gauge:
        yield gauge.show


@contextmanager
def phases(what: str, units: Mapping[str, str]) -> Iterator[Callable[[str, int, int, str], None]]:
    """Show progress phase by phase; gives a function of phase, done, total, and a note.

    Parameters
    ----------
    what : name of the command
    units : what each phase counts
    """
    current, stack = "", ExitStack()
    advance: Callable[[int, int, str], None] = lambda *_: None  # noqa: E731 (of no phase yet)

    def step(phase: str, done: int, total: int, note: str) -> None:
        nonlocal current, advance
        if phase != current:
            stack.close()
            current = phase
            advance = stack.enter_context(progress(f"{what}: {phase}", units[phase]))
        advance(done, total, note)

    with stack:
        yield step
