"""The lease: one driver a run."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import psutil

from psfscale.errors import HeldError
from psfscale.pipeline.ledger.files import read_json, write_json
from psfscale.store.layout import STATE_DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEARTBEAT = 15.0
"""Seconds between two signs of life."""
SILENCE = 300.0
"""Seconds without a sign of life after which a driver on another host counts as dead."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The driver that holds, or held, a run.

    Attributes
    ----------
    token : names this lease
    host, pid, born : the process; `born` tells it from a later one with the same pid
    heartbeat : Unix time of its last sign of life
    """

    token: str
    host: str
    pid: int
    born: float
    heartbeat: float

    @property
    def state(self) -> Literal["running", "stale"]:
        """Stale where the process is gone (this host) or silent (another host)."""
        if self.host == socket.gethostname():
            return "running" if _alive(self.pid, self.born) else "stale"
        return "running" if time.time() - self.heartbeat < SILENCE else "stale"


def _alive(pid: int, born: float) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - born) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _path(run: Path) -> Path:
    return run / STATE_DIRECTORY / "lease.json"


def read_holder(run: Path) -> Holder | None:
    """Who holds the run, dead or alive; None where it was given back."""
    content = read_json(_path(run))
    return None if content is None else Holder(**content)


def holds(run: Path, token: str) -> bool:
    """Whether the run still belongs to the driver of this token."""
    holder = read_holder(run)
    return holder is not None and holder.token == token


class Lease:
    """Held while a driver runs; renews itself from a thread of its own.

    Raises
    ------
    HeldError
        On entry, where another driver holds the run.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.token = uuid.uuid4().hex
        self.lost = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Self:
        with _exclusive(self.run):
            holder = read_holder(self.run)
            if holder is not None and holder.state == "running":
                msg = (
                    f"{self.run} is held by another driver (host {holder.host}, process "
                    f"{holder.pid}); wait until it ends, or stop it"
                )
                raise HeldError(msg)
            self._beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        with _exclusive(self.run):
            if holds(self.run, self.token):
                _path(self.run).unlink(missing_ok=True)

    def _beat(self) -> None:
        pid = os.getpid()
        content = {
            "token": self.token,
            "host": socket.gethostname(),
            "pid": pid,
            "born": psutil.Process(pid).create_time(),
            "heartbeat": time.time(),
        }
        write_json(_path(self.run), content, durable=False)

    def _renew(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            try:
                with _exclusive(self.run):
                    if not holds(self.run, self.token):
                        self.lost.set()
                        return
                    self._beat()
            except OSError:  # the next beat may pass; SILENCE is twenty beats long
                continue


@contextmanager
def _exclusive(run: Path) -> Iterator[None]:
    lock = run / STATE_DIRECTORY / "lease.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
