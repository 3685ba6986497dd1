"""An alarm clock for a unit of work."""

from __future__ import annotations

import faulthandler
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ["UnitOverdue", "alarm"]

_STDERR = 2
HARD_END = 60.0
"""Seconds beyond its time after which a unit that cannot be interrupted ends its process."""


class UnitOverdue(BaseException):
    """A unit takes longer than it may."""


@contextmanager
def alarm(seconds: float | None) -> Iterator[None]:
    """Raise `UnitOverdue` in the main thread after so many seconds; elsewhere do nothing.

    A block that Python cannot interrupt, in native code, ends the process `HARD_END` seconds later.
    An alarm that was set before goes on.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_number: int, _frame: FrameType | None) -> None:
        raise UnitOverdue

    handler, start = signal.signal(signal.SIGALRM, end), time.monotonic()
    waiting, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(seconds + HARD_END, exit=True, file=_STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        left = waiting and max(waiting - (time.monotonic() - start), 1e-3)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, left, interval)
