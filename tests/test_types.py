"""Types are seen from outside: by a checker that meets psfscale as an installed package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path

import pytest

import psfscale


def is_editable() -> bool:
    origin = distribution("psfscale").read_text("direct_url.json")
    return bool(origin and json.loads(origin).get("dir_info", {}).get("editable"))


def test_package__carries_the_mark_of_types() -> None:
    assert files("psfscale").joinpath("py.typed").is_file()


def test_mypy__sees_a_wrong_call_from_an_editable_install(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    if not is_editable():
        pytest.skip("psfscale is not an editable install here")
    (tmp_path / "script.py").write_text("import psfscale\npsfscale.read_stars(3)\n")
    heavy = "torch numpy xarray pandas zarr pydantic pydantic_core dask distributed matplotlib yaml"
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nfollow_imports = silent\n"
        f"[mypy-{','.join(f'{name}.*' for name in heavy.split())}]\nfollow_imports = skip\n"
    )
    where = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "MYPYPATH"}}
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "script.py"],
        cwd=tmp_path, env=where, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert 'script.py:2: error: Argument 1 to "read_stars"' in done.stdout


def test_rooms__that_are_documented_can_be_reached_by_name() -> None:
    code = "import psfscale\nfor name in psfscale._ROOMS: getattr(psfscale, name).__name__"
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in psfscale.__all__:
        assert getattr(psfscale, name) is not None
    assert psfscale.metrics is import_module("psfscale.metrics")
