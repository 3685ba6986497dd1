"""Arrays of users' ``.npz`` files: whole, of known names, and no larger than memory."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import psutil
from numpy.lib import format as npy

from psfscale.errors import InputError
from psfscale.files import require_file
from psfscale.names import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["read_npz", "require_known"]

SHARE_OF_MEMORY = 0.5
"""Part of the free memory that the arrays of a file may take: what is made of them takes more."""

UNREADABLE = (ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, zlib.error)
"""Errors of a damaged, encrypted or foreign file."""


def read_npz(
    path: Path | str, *, required: tuple[str, ...] = (), optional: tuple[str, ...] | None = None
) -> dict[str, np.ndarray]:
    """Read the arrays of an npz, by name.

    Parameters
    ----------
    path : of the file
    required : names that must be there
    optional : names that may be there besides; any where None

    Raises
    ------
    InputError
        The file is missing, damaged or not an npz, an array is missing, unknown, or larger than
        memory.
    """
    path = Path(path)
    require_file(path)
    needed = f"; one with {', '.join(required)} is needed" if required else ""
    if not zipfile.is_zipfile(path):
        msg = f"{path} is not an .npz file{needed}"
        raise InputError(msg)
    try:
        _require_room(path)
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except InputError:
        raise
    except (*UNREADABLE, RuntimeError) as error:
        msg = f"{path} cannot be read: {error}"
        raise InputError(msg) from error
    missing = [name for name in required if name not in arrays]
    if missing:
        msg = f"{path} lacks {', '.join(missing)}; it holds {', '.join(sorted(arrays))}"
        raise InputError(msg)
    if optional is not None:
        require_known(arrays, (*required, *optional), where=str(path))
    return arrays


def require_known(names: Iterable[str], known: tuple[str, ...], *, where: str) -> None:
    """Refuse names that mean nothing, each with the nearest that does.

    Raises
    ------
    InputError
        A name is unknown.
    """
    unknown = [name for name in names if name not in known]
    if unknown:
        hints = [f"{name!r}{nearest(name, known)}" for name in unknown]
        msg = f"{where} holds {', '.join(hints)}, which is not known; known: {', '.join(known)}"
        raise InputError(msg)


def _require_room(path: Path) -> None:
    """Refuse arrays larger than memory, by their headers, before any is unpacked."""
    total = 0
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                size = _size(file)
            if size > member.file_size:
                msg = f"{path} is damaged: {member.filename} is shorter than its header says"
                raise InputError(msg)
            total += size
    room = int(SHARE_OF_MEMORY * psutil.virtual_memory().available)
    if total > room:
        msg = (
            f"{path} unpacks to {total / 1e9:.1f} GB, more than half of the free memory "
            f"({room / 1e9:.1f} GB): cut it in parts"
        )
        raise InputError(msg)


def _size(file: IO[bytes]) -> int:
    """Bytes of an array in memory, by the header of its file."""
    major, _ = npy.read_magic(file)
    read = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    return int(np.prod(shape, dtype=object)) * dtype.itemsize
