"""Stores of earlier schema versions, translated to today's: the one place that knows them.

Versions differ in their metadata alone (names of dims, attributes, spelling of keys), never in
the bytes of arrays. `translated` turns one metadata document, a ``zarr.json``, into that of today;
an `EarlierStore` does so as documents are read, and `psfscale.store.migration` once for all.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from zarr.storage import LocalStore

from psfscale.attributes import enumeration_attributes, flag_attributes, to_stored
from psfscale.errors import StoreError
from psfscale.store.packs import ENTRIES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCHEMA_VERSION = 2
"""Of the stores that this psfscale writes."""
VERSION_ATTRIBUTE = "psfscale_schema"
METADATA = "zarr.json"
AGGREGATES = "aggregates"
"""A group of tables; their axes ``y`` and ``x`` are positions."""
_PSF = "galaxies/psf"


def version_of(path: Path) -> int:
    """Return the schema version of the store at `path`.

    Raises
    ------
    StoreError
        There is no psfscale store, its metadata is damaged, or it is of a later version.
    """
    file = path / METADATA
    if not file.is_file():
        msg = f"no psfscale store at {path}"
        raise StoreError(msg)
    try:
        version = json.loads(file.read_bytes())["attributes"][VERSION_ATTRIBUTE]
    except (ValueError, KeyError, TypeError) as error:
        msg = (
            f"{file} is not the metadata of a psfscale store: it is damaged, or another program "
            f"wrote it; give the path of a store, or restore the file from a copy"
        )
        raise StoreError(msg) from error
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        msg = (
            f"{path} has schema version {version}, this psfscale reads up to {SCHEMA_VERSION}: "
            "install a newer psfscale to read it"
        )
        raise StoreError(msg)
    return version


def local_store(path: Path, *, read_only: bool) -> LocalStore:
    """Return the zarr store at `path`, whose metadata read as those of today's version.

    Raises
    ------
    StoreError
        As `version_of`.
    """
    current = version_of(path) == SCHEMA_VERSION
    return (LocalStore if current else EarlierStore)(path, read_only=read_only)


class EarlierStore(LocalStore):
    """A store of an earlier version: metadata are translated as they are read, never written."""

    async def get(self, key: str, *args: Any, **options: Any) -> Any:
        """Return the bytes under a key."""
        return self._today(key, await super().get(key, *args, **options))

    def get_sync(self, key: str, **options: Any) -> Any:
        """Return the bytes under a key."""
        read: Any = super().get_sync
        return self._today(key, read(key, **options))

    async def set(self, key: str, value: Any) -> None:
        """Write the bytes of an array.

        Raises
        ------
        StoreError
            The key is that of metadata.
        """
        if key.rpartition("/")[2] == METADATA:
            raise StoreError(migrate_first(self.root))
        await super().set(key, value)

    def _today(self, key: str, buffer: Any) -> Any:
        group, _, name = key.rpartition("/")
        if buffer is None or name != METADATA:
            return buffer
        document = translated(json.loads(buffer.to_bytes()), group)
        return type(buffer).from_bytes(json.dumps(document).encode())


def require_current(path: Path) -> None:
    """Raise unless the store at `path` is of today's version, as one to be changed must be.

    Raises
    ------
    StoreError
        It is of another version.
    """
    if version_of(path) != SCHEMA_VERSION:
        raise StoreError(migrate_first(path))


def migrate_first(path: Path) -> str:
    """Return the sentence for a store that is to be changed and is of an earlier version."""
    return (
        f"{path} was written by an earlier psfscale and can be read, but not added to: run "
        f"`psfscale migrate {path}` first (seconds; nothing is computed again)"
    )


def translated(document: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Translate the metadata of one group or array; those of today stay as they are.

    Parameters
    ----------
    document : content of its ``zarr.json``
    path : of the group or array in the store, empty for the root
    """
    result = dict(document)
    if path.split("/")[0] == AGGREGATES:
        return result
    result["attributes"] = _attributes(document.get("attributes") or {}, path)
    if document.get("dimension_names"):
        result["dimension_names"] = [_dim(dim, path) for dim in document["dimension_names"]]
    gathered = document.get("consolidated_metadata")
    if gathered:
        members = {
            name: translated(member, f"{path}/{name}".lstrip("/"))
            for name, member in gathered["metadata"].items()
        }
        result["consolidated_metadata"] = {**gathered, "metadata": members}
    return result


def _dim(dim: str | None, path: str) -> str | None:
    if dim in ("y", "x"):
        return f"{'psf' if path == _PSF else 'stamp'}_{dim}"
    return dim


def _attributes(stored: Mapping[str, Any], path: str) -> dict[str, Any]:
    attributes = dict(stored)
    if attributes.get(VERSION_ATTRIBUTE) == 1:
        return to_stored(attributes | {VERSION_ATTRIBUTE: SCHEMA_VERSION})
    if isinstance(attributes.get(ENTRIES), dict):
        entries = {
            name: {**_attributes(entry, path), "dims": [_dim(dim, path) for dim in entry["dims"]]}
            for name, entry in cast("dict[str, Any]", attributes[ENTRIES]).items()
        }
        return attributes | {ENTRIES: json.dumps(entries)}
    for name, describe in _CODES.items():
        if isinstance(attributes.get(name), dict):
            attributes |= describe(attributes.pop(name))
    return attributes


def _axis_attributes(reasons: Mapping[str, int]) -> dict[str, Any]:
    return {"reason_meanings": " ".join(sorted(reasons, key=lambda name: reasons[name]))}


_CODES = {
    "flag_bits": flag_attributes,
    "roles": enumeration_attributes,
    "models": enumeration_attributes,
    "states": enumeration_attributes,
    "reasons": _axis_attributes,
}
"""How the codes of version 1 are described today, by the attribute that held them."""
