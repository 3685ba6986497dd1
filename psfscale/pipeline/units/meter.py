"""What a unit takes of its process: time, memory, device."""

from __future__ import annotations

import re
import resource
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from psfscale.pipeline.ledger.marker import Cost

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"
"""What to write to clear_refs, proc(5)."""


class Meter:
    """Time and memory since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu, self._stage = time.time(), time.process_time(), 0.0
        reset_peak()

    @contextmanager
    def in_stage(self) -> Iterator[None]:
        """Time meanwhile is the stage's own, not the pipeline's."""
        start = time.process_time()
        try:
            yield
        finally:
            self._stage += time.process_time() - start

    def read(self) -> Cost:
        """What was taken so far."""
        return Cost(
            seconds=round(time.time() - self._wall, 3),
            cpu_seconds=round(time.process_time() - self._cpu, 4),
            stage_seconds=round(self._stage, 4),
            peak_memory=peak_memory(),
        )


def reset_peak() -> None:
    """Have `peak_memory` count from now, where the system can."""
    try:
        (_PROCESS / "clear_refs").write_text(_RESET_PEAK)
    except OSError:  # not Linux, or not allowed: it counts from the start of the process
        return


def peak_memory() -> int:
    """Largest resident memory of this process since `reset_peak` [byte]."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", (_PROCESS / "status").read_text())
    except OSError:
        found = None
    if found is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(found.group(1)) * 1024


def device() -> str:
    """The device on which this process computes: a GPU's name where it has used one."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return str(torch.cuda.get_device_name())
    return "cpu"
