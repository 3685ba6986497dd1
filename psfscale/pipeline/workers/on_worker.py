"""What worker processes do with parcels, whatever started them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from distributed import get_worker

from psfscale.pipeline.units.execute import MEMORY_LIMIT, OVERDUE
from psfscale.pipeline.units.task import Task
from psfscale.pipeline.workers.executor import Advance, Parcel, run_parcel

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3); the largest mmap threshold that glibc takes is 32 MiB."""
ADVANCE_EVERY = 5.0
"""Seconds between two messages of a worker how far its unit is."""
Work = Callable[[Parcel, Advance], list[dict[str, Any]]]
"""What a worker does with a parcel: returns of each task what of its `Outcome` is set."""


@cache
def tune() -> None:
    """Limit this process to one thread, and let it keep freed memory.

    One thread, so that results do not depend on the machine. Dask tells the C library to give
    memory back beyond 64 kB; a fit then spends more time in the kernel than in arithmetic
    (24 against 9 CPU s, measured), so that limit is lifted to 1 GiB.

    A worker does so before its first parcel: a plugin would be set up in all workers at once, and
    the driver would wait for one that hangs.
    """
    import torch

    torch.set_num_threads(1)
    with contextlib.suppress(AttributeError):  # a C library without glibc's mallopt
        library = ctypes.CDLL(None)
        library.mallopt(M_TRIM_THRESHOLD, 2**30)
        library.mallopt(M_MMAP_THRESHOLD, 2**25)


def report(work: Work, topic: str, number: int, parcel: Parcel) -> None:
    """Do the work on a worker, and send the scheduler what it came to."""
    tune()
    send, latest = get_worker().log_event, time.monotonic()

    def advance(task: Task, n_ccds: int) -> None:
        nonlocal latest
        if time.monotonic() - latest > ADVANCE_EVERY:
            latest = time.monotonic()
            send(topic, (number, {"index": parcel.index(task), "n_ccds": n_ccds}))

    send(topic, (number, work(parcel, advance)))


def run_on_worker(parcel: Parcel, advance: Advance) -> list[dict[str, Any]]:
    """Run units on a worker; returns for each what of its `Outcome` is set."""
    limit = get_worker().memory_manager.memory_limit
    if limit:
        os.environ[MEMORY_LIMIT] = str(limit)
    names = ("counts", "died", "error", "hopeless")
    return [
        {name: getattr(outcome, name) for name in names if getattr(outcome, name) is not None}
        for outcome in run_parcel(parcel, guard=_deadline, advance=advance)
    ]


@contextlib.contextmanager
def _deadline(task: Task) -> Iterator[None]:
    """End this process when the unit takes too long, since a thread cannot be ended otherwise."""
    if task.timeout is None:
        yield
        return
    timer = threading.Timer(task.timeout, os._exit, args=(OVERDUE,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
