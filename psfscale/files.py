"""Files that are written whole or not at all, and paths that are checked before the work."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from psfscale.errors import InputError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "PARTIAL",
    "flush",
    "locked",
    "named",
    "replace_file",
    "require_apart",
    "require_file",
    "require_folder",
    "require_new",
    "require_place",
    "require_room",
    "write_whole",
    "write_whole_folder",
]

PARTIAL = ".partial"
"""End of the names of files and folders that are being written; zarr's own end so too."""
UNLOCKABLE = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK)
"""Numbers of errors of file systems without locks."""
ABANDONED = 60.0
"""Seconds without a sign of life after which a lock by folder was left by a dead process."""
SIGN_EVERY = 15.0
"""Seconds between two signs of life in a lock by folder."""


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Give errors of the operating system the name of the path that they are about.

    A write to a full disk fails without a name.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def write_whole(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Give a path to write to; it replaces `path` in one step when all is written.

    After an error the old file, or none, is at `path`. The target of a link is replaced, not the
    link.

    Parameters
    ----------
    path : of the file
    sync : have the content on the disk before the old file goes: it survives a power cut

    Raises
    ------
    OSError
        The file cannot be written; it is named in the error.
    """
    path = path.resolve()
    partial = _beside(path)
    try:
        yield partial
        if sync:
            flush(partial)
        partial.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename in {None, str(partial), partial}:
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def write_whole_folder(path: Path) -> Iterator[Path]:
    """Give a path to make a folder at; it takes the place of `path` when all is written.

    After an error the old folder, or none, is at `path`. The target of a link is replaced, not the
    link.

    Raises
    ------
    OSError
        The folder cannot be written; it is named in the error.
    """
    path = path.resolve()
    partial, old = _beside(path), _beside(path)
    try:
        with named(path):
            yield partial
            if path.exists():
                path.rename(old)  # quick, where removing takes its time
            partial.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file in one step, on the disk when this returns; its folder is made if missing."""
    try:
        _replace(path, content)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, content)


def _replace(path: Path, content: bytes) -> None:
    with write_whole(path, sync=True) as partial:
        partial.write_bytes(content)


def _beside(path: Path) -> Path:
    """Return a name of its own for each writer, also of several threads."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{PARTIAL}")


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


def require_apart(output: Path, inputs: Iterable[Path | None]) -> None:
    """Refuse, before the work, an output that would replace an input.

    Raises
    ------
    InputError
        One path is both.
    """
    for path in inputs:
        if path is not None and _resolved(path) == _resolved(output):
            msg = f"{output} is an input: writing would replace it, choose another output"
            raise InputError(msg)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Keep other processes out of a block; the lock goes with the process.

    A file system without locks (Lustre mounted without flock) has a folder made instead, beside the
    file or in the folder.

    Parameters
    ----------
    path : of a file, made where there is none, or of a folder
    wait : for the process that holds the lock

    Raises
    ------
    BlockingIOError
        Another process holds the lock, and `wait` is False.
    """
    of_folder = path.is_dir()
    handle = os.open(path, os.O_RDONLY if of_folder else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in UNLOCKABLE:
                raise
            with _locked_by_folder(path / ".held" if of_folder else f"{path}.held", wait=wait):
                yield
        else:
            yield
    finally:
        os.close(handle)


@contextmanager
def _locked_by_folder(path: Path | str, *, wait: bool) -> Iterator[None]:
    """Keep others out by a folder that one process alone can make.

    It gives signs of life by the folder's time. A folder without any was left by a dead process and
    is removed; should two remove it at the same time, both may think that the lock is theirs.
    """
    folder, ended = Path(path), threading.Event()
    while not _made(folder):
        if not wait:
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), str(folder))
        time.sleep(0.02)

    def show_life() -> None:
        while not ended.wait(SIGN_EVERY):
            with suppress(OSError):
                os.utime(folder)

    thread = threading.Thread(target=show_life, name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(OSError):
            folder.rmdir()


def _made(folder: Path) -> bool:
    """Whether the folder could be made; an abandoned one is removed, for the next attempt."""
    try:
        folder.mkdir()
    except FileExistsError:
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > ABANDONED:
                folder.rmdir()
        return False
    return True


def require_file(path: Path) -> None:
    """Refuse a path to read that is not a file, or may not be read.

    Raises
    ------
    InputError
        There is nothing, a folder, or a file that may not be read.
    """
    if path.is_dir():
        msg = f"{path} is a folder, a file is expected"
    elif not path.exists():
        msg = f"no such file: {path}"
    elif not os.access(path, os.R_OK):
        msg = f"{path} may not be read: permission denied"
    else:
        return
    raise InputError(msg)


def require_place(path: Path, *, suffixes: tuple[str, ...] = ()) -> None:
    """Refuse, before the work, a path that a file cannot be written to after it.

    Parameters
    ----------
    path : of a file to write or replace
    suffixes : that the name may end in; any if empty

    Raises
    ------
    InputError
        The name ends otherwise, a folder or a device has it, or its folder is missing or may not be
        written.
    """
    if suffixes and path.suffix not in suffixes:
        msg = f"the output's name ends in {' or '.join(suffixes)}, which is its format; got {path}"
        raise InputError(msg)
    if path.is_dir():
        msg = f"{path} is a folder, the output is a file: name a file"
        raise InputError(msg)
    if path.exists() and not path.is_file():
        msg = f"{path} is a device or a pipe, the output is a file: name a file"
        raise InputError(msg)
    _require_room(_resolved(path))


def require_folder(path: Path) -> None:
    """Refuse, before the work, a folder that files cannot be written to after it; it may be new.

    Raises
    ------
    InputError
        A file lies there, or it may not be written or made.
    """
    if path.exists() and not path.is_dir():
        msg = f"{path} is a file, a folder is expected"
        raise InputError(msg)
    _require_room(path / "new" if path.exists() else path)


def require_new(path: Path, *, overwrite: bool = False) -> None:
    """Refuse, before the work, a path that a store cannot be made at after it.

    Parameters
    ----------
    path : of a folder to make
    overwrite : whether what lies there may be replaced

    Raises
    ------
    StoreError
        Something lies there already and `overwrite` is False.
    InputError
        The folder that it belongs in is missing or may not be written.
    """
    if (path.exists() or path.is_symlink()) and not overwrite:
        msg = f"{path} exists already: replace it with --overwrite, or choose another path"
        raise StoreError(msg)
    _require_room(path)


def require_room(path: Path) -> None:
    """Refuse, before the work, a path that cannot be made after it; its folders may be new.

    Raises
    ------
    InputError
        A file stands in the place of a folder, or the last folder that exists may not be written.
    """
    existing = next(folder for folder in path.absolute().parents if folder.exists())
    _require_room(existing / path.name)


def _resolved(path: Path) -> Path:
    """Return a path without links.

    Raises
    ------
    InputError
        Links lead in a circle.
    """
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        msg = f"{path} is a link that leads back to itself: name another path"
        raise InputError(msg) from error


def _require_room(path: Path) -> None:
    """Try to make a file beside `path`: permissions alone do not tell on every file system."""
    folder = path.parent
    store = next((p for p in _resolved(path).parents if (p / "zarr.json").is_file()), None)
    if store is not None:
        msg = f"{path} lies within the store {store}, which is no place for it: choose another path"
        raise InputError(msg)
    if folder.exists() and not folder.is_dir():
        msg = f"{path} cannot be written: {folder} is a file, a folder is expected"
        raise InputError(msg)
    if not folder.is_dir():
        msg = f"{path} cannot be written, there is no such folder: {folder}"
        raise InputError(msg)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise
        msg = f"{path} cannot be written: {error.strerror}"
        raise InputError(msg) from error
    if len(os.fsencode(path.name)) > 200:  # a name is 255 byte at most, the writer adds to it
        msg = f"{path.name[:40]}... is too long for the name of a file"
        raise InputError(msg)
