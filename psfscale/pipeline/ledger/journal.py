"""The start journal: which units were begun, and which of them killed their process."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psfscale.errors import StoreError
from psfscale.pipeline.ledger.files import read_json, write_json
from psfscale.store.stores import STATE_DIRECTORY

if TYPE_CHECKING:
    from pathlib import Path

    from psfscale.pipeline.ledger.marker import Key

DEATHS_BEFORE_ALONE = 2
DEATHS_BEFORE_QUARANTINE = 3
INTERRUPTIONS_BEFORE_ALONE = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """Attempts at a unit that has no marker yet.

    Attributes
    ----------
    attempts : begun so far, each with attempt, lease, host, pid and time
    deaths : reasons of those that killed their process under a driver that lived on
    """

    attempts: tuple[dict[str, Any], ...] = ()
    deaths: tuple[str, ...] = ()

    @property
    def alone(self) -> bool:
        """Whether the next attempt must run in a process of its own.

        So it is after two deaths, or where three drivers ended while the unit ran: one of
        the units in flight may have taken the driver with it.
        """
        interrupted = len(self.attempts) - len(self.deaths)
        return len(self.deaths) >= DEATHS_BEFORE_ALONE or interrupted >= INTERRUPTIONS_BEFORE_ALONE

    @property
    def condemned(self) -> bool:
        """Whether the unit is to be quarantined by name."""
        return len(self.deaths) >= DEATHS_BEFORE_QUARANTINE

    def began(self, attempt: int, lease: str) -> bool:
        """Whether this attempt got as far as running."""
        return any(a["attempt"] == attempt and a["lease"] == lease for a in self.attempts)


def _path(run: Path, key: Key) -> Path:
    return run / STATE_DIRECTORY / "started" / key[0] / f"{key[1]}.json"


def read_history(run: Path, key: Key) -> History:
    """What is known of a unit's earlier attempts; nothing where a power cut left an empty file."""
    try:
        content = read_json(_path(run, key))
        if content is None:
            return History()
        return History(attempts=tuple(content["attempts"]), deaths=tuple(content["deaths"]))
    except (StoreError, KeyError, TypeError):
        return History()


def note_start(run: Path, key: Key, *, attempt: int, lease: str) -> None:
    """Write down that this process begins the unit now."""
    history = read_history(run, key)
    entry = {
        "attempt": attempt,
        "lease": lease,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "time": time.time(),
    }
    _write(run, key, History(attempts=(*history.attempts, entry), deaths=history.deaths))


def note_death(run: Path, key: Key, reason: str) -> History:
    """Write down that the latest attempt killed its process."""
    history = read_history(run, key)
    history = History(attempts=history.attempts, deaths=(*history.deaths, reason))
    _write(run, key, history)
    return history


def forget_attempt(run: Path, key: Key, *, attempt: int, lease: str) -> None:
    """Forget an attempt that ended with its driver, by a signal: the unit has no part in that."""
    history = read_history(run, key)
    rest = tuple(a for a in history.attempts if (a["attempt"], a["lease"]) != (attempt, lease))
    if rest or history.deaths:
        _write(run, key, History(attempts=rest, deaths=history.deaths))
    else:
        note_end(run, key)


def note_end(run: Path, key: Key) -> None:
    """Forget the attempts; the unit has its marker."""
    _path(run, key).unlink(missing_ok=True)


def begun_units(run: Path) -> dict[Key, History]:
    """Units begun without an end, running ones included."""
    folder = run / STATE_DIRECTORY / "started"
    keys = [(path.parent.name, int(path.stem)) for path in folder.glob("*/*.json")]
    return {key: read_history(run, key) for key in sorted(keys)}


def _write(run: Path, key: Key, history: History) -> None:
    content = {"attempts": list(history.attempts), "deaths": list(history.deaths)}
    write_json(_path(run, key), content, durable=False)
