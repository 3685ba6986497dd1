"""Every command, with every wrong kind of path: a sentence that names it, and exit code 2."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from psfscale.cli import app

CATALOGUES = Path(__file__).parent.parent / "catalogs"

INPUTS = {
    "simulate": ["simulate", "BAD", "out"],
    "ingest-survey": ["ingest", "BAD", "a.fits", "-o", "s.zarr"],
    "ingest-files": ["ingest", "SURVEY", "BAD", "-o", "s.zarr"],
    "index": ["index", "BAD", "-o", "i.yaml"],
    "plan": ["plan", "BAD"],
    "plan-survey": ["plan", "run.yaml", "survey=BAD"],
    "run": ["run", "BAD", "--serial"],
    "run-survey": ["run", "run.yaml", "survey=BAD", "--serial"],
    "run-cluster": ["run", "run.yaml", "--cluster", "BAD"],
    "status": ["status", "BAD"],
    "verify": ["verify", "BAD"],
    "migrate": ["migrate", "BAD"],
    "metrics": ["metrics", "BAD", "--serial"],
    "report": ["report", "BAD", "-o", "page.html"],
    "fit": ["fit", "rca", "BAD", "-o", "new.zarr"],
    "fit-survey": ["fit", "rca", "stars.npz", "-o", "new.zarr", "--survey", "BAD"],
    "fit-pupil": ["fit", "wavediff", "stars.npz", "-o", "new.zarr", "--set", "pupil=BAD"],
    "fit-prior": ["fit", "wavediff", "stars.npz", "-o", "new.zarr", "--set", "prior=BAD"],
    "predict-model": ["predict", "BAD", "at.npz", "-o", "psf.npz"],
    "predict-at": ["predict", "m.zarr", "BAD", "-o", "psf.npz"],
    "deconvolve-images": ["deconvolve", "-i", "BAD", "-p", "psf.npy", "-o", "out"],
    "deconvolve-psfs": ["deconvolve", "-i", "image.npy", "-p", "BAD", "-o", "out"],
    "deconvolve-weight": [
        "deconvolve", "-i", "image.npy", "-p", "psf.npy", "-o", "out", "--weight", "BAD",
    ],
    "deconvolve-file": ["deconvolve", "@BAD"],
}  # fmt: skip
"""Commands by what BAD stands for: a path to read."""

OUTPUTS = {
    "simulate": ["simulate", "SURVEY", "BAD", "--exposures", "1", "--ccds", "1"],
    "ingest": ["ingest", "SURVEY", "a.fits", "-o", "BAD"],
    "index": ["index", "s.zarr", "-o", "BAD"],
    "run": ["run", "run.yaml", "output=BAD", "--serial"],
    "metrics-table": ["metrics", "run.zarr", "--serial", "--table", "BAD"],
    "metrics-tables": ["metrics", "run.zarr", "--serial", "--tables", "BAD"],
    "report": ["report", "run.zarr", "-o", "BAD"],
    "fit": ["fit", "rca", "stars.npz", "-o", "BAD"],
    "predict": ["predict", "m.zarr", "at.npz", "-o", "BAD"],
    "deconvolve": ["deconvolve", "-i", "image.npy", "-p", "psf.npy", "-o", "BAD"],
}
"""Commands by what BAD stands for: a path to write."""

KINDS = ("missing", "folder", "text", "empty", "garbage")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good stacks, and one bad path of every kind."""
    folder = tmp_path_factory.mktemp("paths")
    rng = np.random.default_rng(2)
    x, y = rng.uniform(0, 100, (2, 12))
    profile = np.exp(-0.3 * (np.arange(-4, 5) - rng.uniform(-0.5, 0.5, (2, 12, 1))) ** 2)
    stars = 1000 * profile[0][:, :, None] * profile[1][:, None] + rng.normal(0, 1, (12, 9, 9))
    np.savez(folder / "stars.npz", image=stars, x=x, y=y)
    np.savez(folder / "at.npz", x=[1.0], y=[1.0])
    assert call(["fit", "rca", str(folder / "stars.npz"), "-o", str(folder / "m.zarr")], "")[0] == 0
    np.save(folder / "image.npy", rng.normal(0, 1, (2, 16, 16)))
    np.save(folder / "psf.npy", np.full((5, 5), 0.04))
    (folder / "run.yaml").write_text("survey: none.zarr\noutput: run.zarr\n")
    (folder / "folder").mkdir()
    (folder / "text").write_text("a line of text\n")
    (folder / "empty").touch()
    (folder / "garbage").write_bytes(rng.bytes(5000))
    return folder


def call(words: list[str], bad: str) -> tuple[int, str]:
    survey = str(CATALOGUES / "toy.yaml")
    words = [word.replace("BAD", bad).replace("SURVEY", survey) for word in words]
    result = CliRunner().invoke(app, words)
    return result.exit_code, " ".join(result.output.split())


def require_sentence(code: int, out: str, named: str) -> None:
    assert code == 2, (code, out)
    assert named in out.replace(" ", ""), out
    assert "Traceback" not in out
    assert len(out) < 1500, out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", INPUTS)
def test_input__that_is_wrong_ends_in_a_sentence(
    place: Path, monkeypatch: pytest.MonkeyPatch, command: str, kind: str
) -> None:
    monkeypatch.chdir(place)
    before = set(place.iterdir())
    code, out = call(INPUTS[command], kind)
    # of a file of options, those in it are named
    of_options = command == "deconvolve-file" and kind in ("text", "empty")
    require_sentence(code, out, "option" if of_options else kind)
    assert set(place.iterdir()) == before


@pytest.mark.parametrize("kind", ["none/out", "text/out", "/dev/null/out"])
@pytest.mark.parametrize("command", OUTPUTS)
def test_output__that_cannot_be_written_ends_in_a_sentence(
    place: Path, monkeypatch: pytest.MonkeyPatch, command: str, kind: str
) -> None:
    monkeypatch.chdir(place)
    if kind == "none/out" and command in ("simulate", "ingest", "run", "metrics-tables"):
        pytest.skip("makes its folder")
    before = set(place.iterdir())
    code, out = call(OUTPUTS[command], kind)
    # a run looks for its survey first, an index at its name
    require_sentence(code, out, "none.zarr" if command == "run" else kind.split("/")[0])
    assert set(place.iterdir()) == before


AS_NOBODY = """
import json, os, sys
from typer.testing import CliRunner
from psfscale.cli import app
os.chdir(sys.argv[1])
inputs, outputs = json.load(sys.stdin)
if os.getuid() == 0:
    for words in inputs:  # modules may lie where that user may not read
        CliRunner().invoke(app, words)
    import scipy.spatial, astropy.io.fits, encodings.idna
    os.setgid(65534)
    os.setuid(65534)
for words in inputs + outputs:
    result = CliRunner().invoke(app, words)
    print(json.dumps([result.exit_code, " ".join(result.output.split())]))
"""


def test_permission__that_is_missing_ends_in_a_sentence(place: Path) -> None:
    """All commands in one process of a user who may read nothing that is closed, nor write."""
    with tempfile.TemporaryDirectory(prefix="psfscale-test-") as name:
        folder = Path(name)
        for path in place.iterdir():
            if path.is_file():
                shutil.copy(path, folder)
        shutil.copy(CATALOGUES / "toy.yaml", folder)
        (folder / "closed").touch()
        (folder / "closed").chmod(0)
        (folder / "cellar").mkdir()
        (folder / "cellar").chmod(0o555)
        inputs, outputs = (
            [[w.replace("BAD", bad).replace("SURVEY", "toy.yaml") for w in words] for words in all_]
            for bad, all_ in (("closed", INPUTS.values()), ("cellar/out", OUTPUTS.values()))
        )
        folder.chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, name],
            input=json.dumps([inputs, outputs]),
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "1000", "HOME": name, "NUMBA_CACHE_DIR": name},
            check=False,
        )
        (folder / "cellar").chmod(0o755)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for words, (code, out) in zip(inputs + outputs, answers, strict=True):
        assert code == 2, (words, out)
        assert "Traceback" not in out
        assert "closed" in out or "cellar/out" in out or "none.zarr" in out, (words, out)
