"""A process that dies at a moment of one's choice, without the cost of one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from zarr.storage import LocalStore

from psfscale.pipeline.ledger import journal, marker, table
from psfscale.store import shards


class Killed(BaseException):
    """The process is dead: nothing of it reaches the disk any more."""


class Mortal:
    """Every change of the disk, until one of them is the last.

    Attributes
    ----------
    left : changes that the process still lives for; None: for ever
    changes : names of those made, in order

    Parameters
    ----------
    stores : whether writes, moves and removals of whole arrays count too
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, stores: bool = False) -> None:
        self.left: int | None = None
        self.changes: list[str] = []
        effects = [
            (shards, "replace_file"),
            (journal, "write_json"),
            (marker, "write_json"),
            (Path, "unlink"),
            (table.Books, "_set"),
        ]
        if stores:  # and what a driver does to arrays as such
            effects += [(LocalStore, "set"), (Path, "rename"), (shutil, "rmtree")]
        for home, name in effects:
            monkeypatch.setattr(home, name, self._mortal(getattr(home, name)))

    def _mortal(self, effect):
        def change(*args, **options):
            name = _name(effect, args)
            if name.endswith(".partial"):  # zarr's own, as it makes a store beside its place
                return effect(*args, **options)
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    raise Killed
            self.changes.append(name)
            return effect(*args, **options)

        return change


def _name(effect, args) -> str:
    """Such as ``unlink markers/fit/0.json``."""
    told = args[1] if effect.__name__ in ("_set", "set") else "/".join(Path(args[0]).parts[-3:])
    return f"{effect.__name__} {told}"
