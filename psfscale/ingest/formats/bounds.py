"""Bounds on what a recipe or a file may ask of the machine."""

from __future__ import annotations

import os
import re
import signal
import threading
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from psfscale.errors import ConfigError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_SECONDS = 2.0
"""A sound expression needs microseconds on a file name or a header card; one that backtracks
without end needs years."""


def matched(pattern: str, text: str, *, whole: bool) -> re.Match[str] | None:
    """Match `text` with a regular expression of a recipe, or give up soon.

    Only in the main thread, where a clock can interrupt the match, is it bounded.

    Parameters
    ----------
    pattern : regular expression
    text : file name, EXTNAME or header card
    whole : match the whole text, not a part of it

    Raises
    ------
    ConfigError
        The expression needs more than two seconds.
    """
    match = re.fullmatch if whole else re.search
    with _bounded(pattern, text):
        return match(pattern, text)


def require_memory(n_bytes: int, what: str) -> None:
    """Refuse what would take more than half of the machine's memory.

    Raises
    ------
    InputError
        It would.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if n_bytes > memory / 2:
        msg = f"{what} need {n_bytes / 1e9:.3g} GB, this machine has {memory / 1e9:.3g} GB in all"
        raise InputError(msg)


def _bounded(pattern: str, text: str) -> AbstractContextManager[None]:
    if threading.current_thread() is not threading.main_thread():
        return nullcontext()
    return _alarm(pattern, text)


@contextmanager
def _alarm(pattern: str, text: str) -> Iterator[None]:
    def end(_number: int, _frame: FrameType | None) -> None:
        msg = (
            f"the regular expression {pattern!r} takes more than {_SECONDS:g} s on {text!r}: it "
            "tries too many ways to match; write it without repeats inside repeats"
        )
        raise ConfigError(msg)

    handler = signal.signal(signal.SIGALRM, end)
    waiting, interval = signal.setitimer(signal.ITIMER_REAL, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, waiting, interval)
        signal.signal(signal.SIGALRM, handler)
