"""The guard of all commands: each end is a sentence and an exit code of the table."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from psfscale.cli import app
from psfscale.errors import EXIT_MEANINGS, ExitCode, InputError
from psfscale.files import named, require_new, require_place, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let `psfscale status` end by this error."""

    def status_of(path: Path) -> None:
        raise error

    monkeypatch.setattr("psfscale.pipeline.state.block_status.status_of", status_of)


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (InputError("x has shape (3,), expected (4,)"), 2, "x has shape"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "run.zarr: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), 2, "/a/b: Permission denied"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError("Unable to allocate 6. GiB"), 70, "out of memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            70,
            "out of memory",
        ),
        (OSError("no number"), 70, "OSError: no number"),
        (ZeroDivisionError("division by zero"), 70, "ZeroDivisionError: division by zero"),
    ],
)
def test_guard__ends_every_error_in_a_sentence_and_a_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    raising(monkeypatch, error)
    result = CliRunner().invoke(app, ["status", "run.zarr"])
    assert result.exit_code == code, result.output
    assert sentence in result.output
    assert "Traceback" not in result.output
    logs = list(tmp_path.glob("psfscale-error-*.log"))
    assert len(logs) == (code == 70)
    for log in logs:
        assert log.name in result.output
        assert "Traceback" in log.read_text()


def test_guard__writes_the_traceback_elsewhere_where_the_folder_may_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    raising(monkeypatch, ZeroDivisionError("division by zero"))
    gone.rmdir()
    result = CliRunner().invoke(app, ["status", "run.zarr"])
    assert result.exit_code == 70
    assert len(list(tmp_path.glob("psfscale-error-*.log"))) == 1


def command(words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            "bash",
            "-o",
            "pipefail",
            "-c",
            words.replace("psfscale", f"{sys.executable} -m psfscale.cli"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
        check=False,
    )


@pytest.mark.parametrize(
    "words", ["schema | true", "schema >&-", "schema 2>/dev/full", "schema 2>&-"]
)
def test_guard__goes_on_without_a_reader(words: str) -> None:
    done = command(f"psfscale {words}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("words", ["schema", "--version"])
def test_guard__says_that_the_output_is_full(words: str) -> None:
    done = command(f"psfscale {words} > /dev/full")
    assert done.returncode == 2
    assert "the standard output: No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_exit_codes__are_the_same_in_help_and_docs() -> None:
    rows = re.findall(
        r"^\| (\d+) \| (.*) \|$", (ROOT / "docs/running.md").read_text(), re.MULTILINE
    )
    assert {int(code): text for code, text in rows} == {int(c): t for c, t in EXIT_MEANINGS.items()}
    assert set(EXIT_MEANINGS) == set(ExitCode)
    printed = " ".join(CliRunner().invoke(app, ["--help"]).output.split())
    for code, text in EXIT_MEANINGS.items():
        assert f"{int(code)} {text}" in printed


def fail_within(path: Path) -> None:
    with write_whole(path) as partial:
        partial.write_text("ne")
        raise OSError(errno.ENOSPC, "No space left on device")


def test_write_whole__leaves_the_old_file_where_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    with pytest.raises(OSError, match="No space") as caught:
        fail_within(path)
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with write_whole(path, sync=True) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_write_whole__replaces_the_target_of_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("old")
    (tmp_path / "link").symlink_to("there")
    with write_whole(tmp_path / "link") as partial:
        partial.write_text("new")
    assert (tmp_path / "there").read_text() == "new"
    assert (tmp_path / "link").is_symlink()


def test_named__leaves_a_name_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, named(tmp_path):
        (tmp_path / "other").read_text()
    assert caught.value.filename == str(tmp_path / "other")


@pytest.mark.parametrize("require", [require_place, require_new])
@pytest.mark.parametrize(
    ("name", "sentence"),
    [("none/a", "no such folder"), ("file/a", "is a file, a folder is expected")],
)
def test_require__refuses_a_place_without_a_folder(
    tmp_path: Path, require: Callable[[Path], None], name: str, sentence: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=sentence):
        require(tmp_path / name)


def test_require_place__refuses_folders_devices_and_wrong_endings(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        require_place(tmp_path)
    with pytest.raises(InputError, match="is a device"):
        require_place(Path("/dev/null"))
    with pytest.raises(InputError, match=r"ends in \.csv or \.parquet"):
        require_place(tmp_path / "a.txt", suffixes=(".csv", ".parquet"))
    with pytest.raises(InputError, match="too long"):
        require_place(tmp_path / ("a" * 240))
    require_place(tmp_path / "a.csv", suffixes=(".csv", ".parquet"))
    assert list(tmp_path.iterdir()) == []
