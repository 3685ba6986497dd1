"""The lease: one driver a run."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from psfscale.errors import HeldError, StoreError
from psfscale.files import locked
from psfscale.pipeline.ledger.files import read_json, write_json
from psfscale.pipeline.ledger.identity import born, is_hidden, place
from psfscale.store.seal import break_seal, write_seal
from psfscale.store.stores import STATE_DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HEARTBEAT = 15.0
"""Seconds between two signs of life."""
SILENCE = 300.0
"""Seconds without a sign of life after which a driver that cannot be seen counts as dead."""
LOOK_EVERY = 1.0
"""Seconds between two looks at a lease that is waited for."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The driver that holds, or held, a run.

    Attributes
    ----------
    token : names this lease
    host, pid : the process, for people
    place, born : of the process, as `ledger.identity` has them
    heartbeat : Unix time of its last sign of life
    """

    token: str
    host: str
    pid: int
    born: float
    heartbeat: float
    place: str = ""

    @property
    def silent(self) -> float:
        """Seconds since its last sign of life."""
        return time.time() - self.heartbeat

    @property
    def seen(self) -> bool:
        """Whether this process would see the other one, were it alive."""
        return self.place == place() and not is_hidden(self.pid)

    @property
    def state(self) -> Literal["running", "stale"]:
        """Stale where the process is gone (seen from here) or silent (elsewhere).

        Elsewhere is another host, another container of this host, and this host before it was
        started anew.
        """
        alive = born(self.pid) == self.born if self.seen else self.silent < SILENCE
        return "running" if alive else "stale"


def _path(run: Path) -> Path:
    return run / STATE_DIRECTORY / "lease.json"


def read_holder(run: Path) -> Holder | None:
    """Who holds the run, dead or alive; None where it was given back.

    A lease that cannot be read is nobody's: a power cut has ended its driver, or the driver's
    next sign of life shows it that the lease is lost.
    """
    try:
        content = read_json(_path(run))
        return None if content is None else Holder(**content)
    except (StoreError, TypeError):
        return None


def holds(run: Path, token: str) -> bool:
    """Whether the run still belongs to the driver of this token."""
    holder = read_holder(run)
    return holder is not None and holder.token == token


class Lease:
    """Held while a driver runs; renews itself from a thread of its own.

    Parameters
    ----------
    run : path of the run store
    wait : how long to wait for another driver's lease to end [s]
    check : called meanwhile; may raise to end the waiting

    Raises
    ------
    HeldError
        On entry, where another driver holds the run.
    """

    def __init__(
        self, run: Path, *, wait: float = 0.0, check: Callable[[], object] = lambda: None
    ) -> None:
        self.run = run
        self.token = uuid.uuid4().hex
        self.lost = threading.Event()
        self._wait, self._check = wait, check
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Self:
        end = time.monotonic() + self._wait
        while (holder := self._take()) is not None:
            self._check()
            if time.monotonic() >= end:
                raise HeldError(self._refusal(holder))
            time.sleep(LOOK_EVERY)
        break_seal(self.run)
        self._thread.start()
        return self

    def _take(self) -> Holder | None:
        """Take the lease, or return who has it."""
        with _exclusive(self.run):
            holder = read_holder(self.run)
            if holder is not None and holder.state == "running":
                return holder
            self._beat()
            return None

    def _refusal(self, holder: Holder) -> str:
        held = (
            f"{self.run} is held by another driver (host {holder.host}, process {holder.pid}); "
            "wait until it ends, or stop it"
        )
        if holder.seen:
            return held
        return (
            f"{held}. It is on another host or in another container, and counts as dead after "
            f"{SILENCE:g} s without a sign of life (now {max(holder.silent, 0):.0f} s); "
            f"--wait-lease {SILENCE:g} waits for that"
        )

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._seal()
        with _exclusive(self.run):
            if holds(self.run, self.token):
                _path(self.run).unlink(missing_ok=True)

    def _seal(self) -> None:
        """Note what the store holds as this driver leaves it."""
        if not self.lost.is_set() and (self.run / "zarr.json").is_file():
            with suppress(OSError):  # a full disk; the store stays without a seal
                write_seal(self.run)

    def _beat(self) -> None:
        pid = os.getpid()
        content = {
            "token": self.token,
            "host": socket.gethostname(),
            "place": place(),
            "pid": pid,
            "born": born(pid),
            "heartbeat": time.time(),
        }
        write_json(_path(self.run), content)

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
    with locked(lock):
        yield
