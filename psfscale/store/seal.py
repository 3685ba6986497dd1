"""What a store at rest holds beside the products of units: checksums, and copies of what is small.

Products of units are known by the digests of their units. All else (metadata, the arrays that a
driver writes, tables and maps) is written by one process at a time; as that process ends it seals
the store. A store that is written, or whose writer was killed, has no seal.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from zipfile import BadZipFile, ZipFile
from zlib import crc32

from psfscale.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator

SEAL = Path(".psfscale", "seal.zip")
_LIST = "checksums.json"
_METADATA = "zarr.json"
_COPIED = ("units/", "ccds/state/", "exposures/")
"""Arrays of exposures that nothing else can rebuild; copies of theirs are kept, and of all metadata
and arrays of names, spectra and settings, which are small."""
_REBUILT = ("aggregates", "summary")
"""Groups that are made from the rest."""
_DRIVERS = ("exposures", "units", "summary", "seds")
"""Groups that no unit writes."""


@dataclass(frozen=True, kw_only=True)
class Seal:
    """Checksums of files by their path in the store, and copies of some.

    Attributes
    ----------
    checksums : CRC-32 of every sealed file
    copies : contents of those that nothing else can rebuild
    """

    checksums: dict[str, int]
    copies: dict[str, bytes]

    @classmethod
    def read(cls, store: Path) -> Self | None:
        """Read the seal of a store; None where it has none, or where that is damaged itself."""
        try:
            with ZipFile(store / SEAL) as file:
                checksums = json.loads(file.read(_LIST))
                copies = {name: file.read(name) for name in file.namelist() if name != _LIST}
        except (OSError, BadZipFile, ValueError, KeyError, EOFError):
            return None
        return cls(checksums=checksums, copies=copies)

    def broken(self, store: Path) -> Iterator[tuple[str, str]]:
        """Yield path and fault of every sealed file that is lost, altered or was added."""
        here = dict(_sealed_files(store))
        for name, checksum in self.checksums.items():
            path = store / name
            if not path.is_file():
                yield name, f"{path} is lost"
            elif crc32(path.read_bytes()) != checksum:
                yield name, f"{path} is damaged: it is not what was written"
        for name in sorted(here.keys() - self.checksums.keys()):
            yield name, f"{here[name]} was added by nobody who holds the store"


def write_seal(store: Path) -> None:
    """Seal a store at rest; its holder's last act."""
    contents = {name: path.read_bytes() for name, path in _sealed_files(store)}
    checksums = {name: crc32(content) for name, content in contents.items()}
    (store / SEAL).parent.mkdir(exist_ok=True)
    with write_whole(store / SEAL) as partial, ZipFile(partial, "w") as file:
        file.writestr(_LIST, json.dumps(checksums))
        for name, content in contents.items():
            if _is_copied(store, name):
                file.writestr(name, content)


def _is_copied(store: Path, name: str) -> bool:
    """Whether a copy of a file is kept in the seal."""
    if name.endswith(_METADATA) or name.startswith(_COPIED):
        return True
    if name.split("/")[0] in _REBUILT:
        return False
    array = next((f for f in (store / name).parents if (f / _METADATA).is_file()), store)
    try:
        metadata: Any = json.loads((array / _METADATA).read_bytes())
        return bool((metadata.get("dimension_names") or ["exposure"])[0] != "exposure")
    except (ValueError, AttributeError):
        return False


def break_seal(store: Path) -> None:
    """Declare a store about to be written; its holder's first act."""
    (store / SEAL).unlink(missing_ok=True)


def _sealed_files(store: Path) -> Iterator[tuple[str, Path]]:
    """Yield all files but those that units write and those of the state folder."""
    for folder, folders, files in os.walk(store):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = Path(folder)
        if _METADATA in files and _is_of_units(here / _METADATA, here.relative_to(store)):
            folders.clear()
            files = [_METADATA]
        for name in sorted(files):
            if not name.endswith((".partial", ".tmp")):
                yield (here / name).relative_to(store).as_posix(), here / name


def _is_of_units(metadata: Path, name: Path) -> bool:
    """Whether an array is cut by exposure, and so written by units or by ingest."""
    if name.parts[:1] and name.parts[0] in _DRIVERS:
        return False
    try:
        return is_of_units(json.loads(metadata.read_bytes()))
    except ValueError:
        return False


def is_of_units(metadata: Any) -> bool:
    """Whether the metadata of an array cut it by exposure."""
    try:
        chunk = metadata["chunk_grid"]["configuration"]["chunk_shape"]
        return bool(metadata["dimension_names"][0] == "exposure" and chunk[0] == 1)
    except (KeyError, TypeError, IndexError):
        return False
