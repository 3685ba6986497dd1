"""Identity of processes, told apart over hosts, restarts, containers and reused numbers."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path

import psutil

BOOT = Path("/proc/sys/kernel/random/boot_id")
NAMESPACE = Path("/proc/self/ns/pid")
STATE, START = 0, 19
"""Fields of /proc/PID/stat after the name: state, and start time [clock ticks since boot]."""


@cache
def place() -> str:
    """Name the running kernel and the space of process numbers of this process.

    Process numbers mean the same where this is the same: containers of one host have a space
    each, and a host that has restarted is another kernel.
    """
    try:
        return f"{BOOT.read_text().strip()} {NAMESPACE.readlink()}"
    except OSError:  # not Linux
        return socket.gethostname()


def born(pid: int) -> float | None:
    """Return when a process of this place started, on a clock that nobody sets; None if it is gone.

    A process that has ended, and whose parent has not noticed yet, is gone.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _born_elsewhere(pid)
    return None if fields[STATE] in "ZX" else float(fields[START])


def _born_elsewhere(pid: int) -> float | None:
    """Return the start time where there is no /proc."""
    if BOOT.exists():
        return None
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def is_hidden(pid: int) -> bool:
    """Whether a process exists of which this user may see nothing (/proc with hidepid)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return not Path(f"/proc/{pid}/stat").exists()
    except OSError:
        return False
    return False
