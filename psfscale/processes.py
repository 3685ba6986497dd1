"""Signals to a command, and child processes that leave them to their parent."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

__all__ = [
    "SAME_SIGNAL",
    "STOPPING",
    "Interrupt",
    "Interrupted",
    "Stoppable",
    "comes_true",
    "deaf_children",
    "end_with_parent",
    "kept_handlers",
    "on_parent_death",
]

TERMINAL = (signal.SIGINT, signal.SIGHUP)
"""Signals that a terminal sends to all processes of a command: Ctrl-C, and when it closes."""
STOPPING = (*TERMINAL, signal.SIGTERM)
"""Signals that ask a command to stop."""
SAME_SIGNAL = 1.0
"""Seconds within which signals to several processes, or repeated ones, are taken as one."""
AGAIN_AFTER = 0.05
"""Seconds after which a signal is sent again whose exception was dropped."""
PARENT_EVERY = 0.5
"""Seconds between two looks at whether the parent lives."""


class Interrupted(KeyboardInterrupt):
    """The command was asked to stop by a signal.

    Attributes
    ----------
    number : of the signal
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def comes_true(what: Callable[[], bool], *, within: float = SAME_SIGNAL) -> bool:
    """Whether something is so, or comes to be so in some seconds."""
    end = time.monotonic() + within
    while not what():
        if time.monotonic() >= end:
            return False
        time.sleep(0.02)
    return True


class Interrupt:
    """Take a first signal as a wish to stop cleanly; a later one ends the command at once.

    Signals that were ignored before (`nohup`, a script's background job) stay ignored. Where
    several processes end by one signal, each may get it twice: repeats are ignored for a moment.

    Parameters
    ----------
    told : number of the signal that another process passes on, else 0
    """

    def __init__(self, told: Callable[[], int] = lambda: 0) -> None:
        self._told = told
        self._got: int | None = None
        self._since = 0.0
        self._depth = 0
        self._before: dict[int, Any] = {}

    @property
    def signal(self) -> int | None:
        """Number of the signal that came, or None."""
        return self._got or self._told() or None

    def caught(self) -> bool:
        """Whether a signal has come."""
        return self.signal is not None

    def check(self) -> None:
        """Raise `Interrupted` where a signal has come."""
        if self.signal is not None:
            raise Interrupted(self.signal)

    def __enter__(self) -> Self:
        self._depth += 1
        if self._depth == 1 and threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _catch(self, number: int, _frame: FrameType | None) -> None:
        if self._got is None:
            self._got, self._since = number, time.monotonic()
        elif time.monotonic() - self._since > SAME_SIGNAL:
            self._restore()
            signal.raise_signal(number)


class Stoppable(Interrupt):
    """Raise `Interrupted` for signals that ask to stop, so that all that is open is closed.

    Python drops exceptions that are raised while it deletes an object: the signal is then sent
    once more, a moment later.
    """

    def __enter__(self) -> Self:
        super().__enter__()
        self._hook = sys.unraisablehook
        sys.unraisablehook = self._take_dropped
        return self

    def __exit__(self, *reason: object) -> None:
        sys.unraisablehook = self._hook
        super().__exit__(*reason)

    def _take_dropped(self, dropped: sys.UnraisableHookArgs) -> None:
        if not isinstance(dropped.exc_value, Interrupted):
            self._hook(dropped)
            return
        self._since = -math.inf
        again = (os.getpid(), dropped.exc_value.number)
        threading.Timer(AGAIN_AFTER, os.kill, again).start()

    def _catch(self, number: int, _frame: FrameType | None) -> None:
        repeated = self._got is not None and time.monotonic() - self._since <= SAME_SIGNAL
        self._got, self._since = self._got or number, time.monotonic()
        if not repeated:
            raise Interrupted(number)


@contextmanager
def kept_handlers() -> Iterator[None]:
    """Put back the handlers of signals that a library replaces as it is imported."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)


@contextmanager
def deaf_children() -> Iterator[None]:
    """Start child processes, and threads that start them, that no terminal's signal reaches.

    A thread hands the signals that it blocks on to its threads and child processes, through exec
    too, so that there is no moment in which a child would die of Ctrl-C. What the parent does
    with the signal, it does to them. The process in which multiprocessing keeps account of its
    semaphores is one of them: it ignores Ctrl-C, and would die as the terminal closes.
    """
    from multiprocessing import resource_tracker

    before = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL)
    try:
        resource_tracker.ensure_running()  # as it starts, it unblocks SIGINT in this thread
        signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def on_parent_death(parent: int, act: Callable[[], object]) -> None:
    """Call `act` in a thread soon after the parent of this process has ended.

    Parameters
    ----------
    parent : process number of the parent, from before it could end
    act : what to do
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_EVERY)
        act()

    threading.Thread(target=watch, name="parent", daemon=True).start()


def end_with_parent(parent: int) -> None:
    """End this process soon after its parent has ended."""
    on_parent_death(parent, lambda: os._exit(128 + signal.SIGHUP))
