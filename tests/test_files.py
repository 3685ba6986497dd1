"""Locks between processes, with and without help from the file system."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from psfscale import files
from psfscale.errors import StoreError
from psfscale.files import locked
from psfscale.ingest.pending import alone


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)


@pytest.fixture(params=["locks", "no locks"])
def disk(request: pytest.FixtureRequest) -> None:
    """A file system that has locks, and one that has none."""
    if request.param == "no locks":
        request.getfixturevalue("no_locks")


@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize("name", ["file", ""])
def test_locked__lets_one_in_at_a_time(tmp_path: Path, name: str) -> None:
    inside: list[None] = []
    together: list[int] = []

    def enter() -> None:
        for _ in range(20):
            with locked(tmp_path / name):
                inside.append(None)
                together.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [1] * 80
    assert [path.name for path in tmp_path.iterdir()] == ([name] if name else [])


@pytest.mark.usefixtures("disk")
def test_second_ingest__is_kept_out_and_the_lock_goes_with_the_first(tmp_path: Path) -> None:
    with (
        alone(tmp_path),
        pytest.raises(StoreError, match="another ingest is writing"),
        alone(tmp_path),
    ):
        pass
    with alone(tmp_path):
        pass


@pytest.mark.usefixtures("no_locks")
def test_lock_by_folder__shows_life_and_is_taken_from_the_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SIGN_EVERY", 0.01)
    folder = tmp_path / ".held"
    with locked(tmp_path):
        os.utime(folder, (0, 0))
        end = time.monotonic() + 5
        while folder.stat().st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.01)
        assert time.time() - folder.stat().st_mtime < 5
    folder.mkdir()
    os.utime(folder, (0, 0))
    with locked(tmp_path):
        pass
    assert not folder.exists()
