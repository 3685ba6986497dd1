"""What an ingest keeps beside the arrays: which exposures it owes, refusals, a lock."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from psfscale.errors import StoreError
from psfscale.files import locked, write_whole
from psfscale.store.stores import STATE_DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from psfscale.ingest.events import FileRefusal
    from psfscale.ingest.formats.reader import Piece
    from psfscale.ingest.objects import Admitted, Kind

OWED = "ingest.json"
REFUSED = "refused.jsonl"
_LOCK = "ingest.lock"


def owed(store: Path) -> set[str]:
    """Exposures of an ingest that has not come to its end."""
    path = store / STATE_DIRECTORY / OWED
    if not path.is_file():
        return set()
    return set(json.loads(path.read_text(encoding="utf-8"))["exposures"])


def write_owed(store: Path, exposures: Collection[str]) -> None:
    """Say which exposures the ingest in hand is to write, whole or not at all."""
    text = json.dumps({"exposures": sorted(exposures)})
    (store / STATE_DIRECTORY).mkdir(exist_ok=True)
    with write_whole(store / STATE_DIRECTORY / OWED, sync=True) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def alone(store: Path) -> Iterator[None]:
    """Keep a second ingest out of the store; the lock goes with the process.

    Raises
    ------
    StoreError
        Another ingest is at work.
    """
    (store / STATE_DIRECTORY).mkdir(exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(locked(store / STATE_DIRECTORY / _LOCK, wait=False))
        except BlockingIOError as error:
            msg = f"another ingest is writing to {store}; wait for its end"
            raise StoreError(msg) from error
        yield


def file_line(item: FileRefusal) -> dict[str, Any]:
    """A refused file as a line of the list."""
    return {
        "file": str(item.file),
        "exposure": item.exposure,
        "ccd": item.ccd,
        "id": None,
        "reason": item.reason,
    }


def object_lines(piece: Piece, found: Mapping[Kind, Admitted]) -> list[dict[str, Any]]:
    """Every refused object of a CCD as a line of the list."""
    return [
        {
            "file": str(piece.path),
            "exposure": piece.exposure.id,
            "ccd": piece.ccd,
            "kind": kind,
            "id": identity,
            "reason": reason.name.lower(),
        }
        for kind, admitted in found.items()
        for identity, reason in admitted.refused
        if reason.listed
    ]


def write_refusals(store: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Append to the list of what was refused."""
    text = "".join(json.dumps(line) + "\n" for line in lines)
    if not text:
        return
    with (store / STATE_DIRECTORY / REFUSED).open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def drop_refusals(store: Path, *, exposures: Collection[str], files: Collection[Path]) -> None:
    """Forget what is about to be done again, and a last line that was cut off."""
    path = store / STATE_DIRECTORY / REFUSED
    if not path.is_file():
        return
    names = {str(file) for file in files}
    with (
        path.open(encoding="utf-8") as old,
        write_whole(path, sync=True) as partial,
        partial.open("w", encoding="utf-8") as new,
    ):
        new.writelines(text for text in old if _stays(text, exposures, names))


def _stays(text: str, exposures: Collection[str], files: Collection[str]) -> bool:
    try:
        line = json.loads(text)
    except ValueError:
        return False
    refused_file = line["id"] is None and line["file"] in files
    return line["exposure"] not in exposures and not refused_file
