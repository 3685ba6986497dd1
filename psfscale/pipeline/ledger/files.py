"""Small files that are whole or absent, whatever dies while they are written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from psfscale.errors import StoreError

PARTIAL = (".partial", ".tmp")
"""Ends of the names of what a killed writer leaves behind: zarr's own and this module's."""


def write_json(path: Path, content: Any, *, durable: bool = True) -> None:
    """Replace the file at `path` in one step; with `durable`, it also survives a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("w") as file:
        json.dump(content, file, separators=(",", ":"))
        if durable:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)
    if durable:
        flush(path.parent)


def read_json(path: Path) -> Any | None:
    """Content of the file, or None where there is none.

    Raises
    ------
    StoreError
        The file is damaged.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        msg = f"{path} is damaged ({error}); `psfscale verify --repair` puts right what it can"
        raise StoreError(msg) from error


def flush(path: Path) -> None:
    """Have a file or a folder's entries on the disk when this returns; absence is no error."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(root: Path) -> int:
    """Remove what killed writers left below `root`; returns how many files."""
    found = ((Path(folder) / name) for folder, _, names in os.walk(root) for name in names)
    stray = [path for path in found if path.name.endswith(PARTIAL)]
    for path in stray:
        path.unlink(missing_ok=True)
    return len(stray)
