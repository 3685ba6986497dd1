"""A store of an earlier schema version made one of today's, in place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from psfscale.errors import StoreError
from psfscale.files import PARTIAL, replace_file
from psfscale.store.stores import STATE_DIRECTORY
from psfscale.store.versions import METADATA, SCHEMA_VERSION, translated, version_of

if TYPE_CHECKING:
    from collections.abc import Iterator


def migrate_store(path: Path) -> bool:
    """Make a store one of today's version; False where it is one already.

    Versions differ in their metadata alone: no array is read or written. The root's metadata,
    which hold the version and all that readers of consolidated metadata see, are replaced last,
    in one step. Killed before that, the store is still one of the earlier version: psfscale
    translates what it reads of one document at a time, and leaves those of today as they are.

    Raises
    ------
    StoreError
        There is no store at `path`, it is of a later version, or its metadata are damaged.
    """
    if version_of(path) == SCHEMA_VERSION:
        return False
    for file in (*_members(path), path / METADATA):
        for left in file.parent.glob(f".{METADATA}.*{PARTIAL}"):
            left.unlink()
        group = file.parent.relative_to(path).as_posix()
        raw = file.read_bytes()
        try:
            document = json.loads(raw)
        except ValueError as error:
            msg = f"{file} is damaged ({error}); restore it from a copy, then migrate again"
            raise StoreError(msg) from error
        today = translated(document, "" if group == "." else group)
        if today != document:
            replace_file(file, json.dumps(today, indent=2).encode())
    return True


def _members(path: Path) -> Iterator[Path]:
    """Metadata of all groups and arrays below the root."""
    for folder, names, files in os.walk(path):
        here = Path(folder)
        if METADATA not in files:
            names.clear()  # the state folder, or chunks in folders of their own
            continue
        if here != path:
            yield here / METADATA
        names[:] = sorted(name for name in names if name != STATE_DIRECTORY)
