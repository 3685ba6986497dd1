"""Small JSON files that are whole or absent, and what killed writers left."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from psfscale.errors import StoreError
from psfscale.files import PARTIAL, flush, write_whole

STRAY = (PARTIAL, ".tmp")
"""Ends of the names of what a killed writer leaves behind; .tmp is of earlier versions."""


def write_json(path: Path, content: Any, *, durable: bool = True) -> None:
    """Replace the file at `path` in one step; with `durable`, it also survives a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path, sync=durable) as partial:
        partial.write_bytes(json.dumps(content, separators=(",", ":")).encode())
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


def sweep(root: Path) -> int:
    """Remove what killed writers left below `root`; returns how many files."""
    found = ((Path(folder) / name) for folder, _, names in os.walk(root) for name in names)
    stray = [path for path in found if path.name.endswith(STRAY)]
    for path in stray:
        path.unlink(missing_ok=True)
    return len(stray)
