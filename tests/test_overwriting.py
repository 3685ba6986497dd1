"""One rule: what a command has made, it alone replaces, and with ``--overwrite`` alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from psfscale.cli import app

TOY = str(Path(__file__).parent.parent / "catalogs" / "toy.yaml")
SMALL = ["--exposures", "2", "--ccds", "1", "--stars", "8", "--galaxies", "2"]

COMMANDS = {
    "init": (["init", "new.yaml"], "new.yaml"),
    "simulate": (["simulate", TOY, "new", *SMALL], "new"),
    "ingest": (["ingest", "survey/survey.yaml", "IMAGE0", "-o", "new.zarr"], "new.zarr"),
    "index": (["index", "s.zarr", "-o", "new.yaml"], "new.yaml"),
    "fit": (["fit", "rca", "stars.npz", "-o", "new.zarr"], "new.zarr"),
    **{
        f"predict-{end}": (["predict", "m.zarr", "at.npz", "-o", f"new.{end}"], f"new.{end}")
        for end in ("npz", "npy", "fits", "zarr")
    },
    **{
        f"deconvolve-{end}": (
            ["deconvolve", "-i", "image.npy", "-p", "psf.npy", "-m", "grad", "-o", f"new.{end}"],
            f"new.{end}" if end != "npy" else "new_primal.npy",
        )
        for end in ("npz", "npy", "fits", "zarr")
    },
}  # fmt: skip
"""Commands by name: words, and what they make."""

ONLY_OWN = ("simulate", "ingest", "index", "fit", "predict-zarr", "deconvolve-zarr")
"""Commands that make folders, or files that others could lie in the place of."""


def call(words: list[str]) -> tuple[int, str]:
    images = [str(path) for path in sorted(Path("survey/images").glob("*.fits"))]
    named = {f"IMAGE{k}": path for k, path in enumerate(images)}
    result = CliRunner().invoke(app, [named.get(word, word) for word in words])
    return result.exit_code, " ".join(result.output.split())


def state(path: Path) -> dict[Path, tuple[int, int]]:
    """Inode and time of every file, but for metadata, locks and seals of stores."""
    own = {".psfscale", "zarr.json"}
    files = [p for p in path.rglob("*") if p.is_file() and not {*p.parts} & own]
    return {one: (one.stat().st_ino, one.stat().st_mtime_ns) for one in files}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("overwriting")
    rng = np.random.default_rng(2)
    x, y = rng.uniform(0, 100, (2, 12))
    profile = np.exp(-0.3 * (np.arange(-4, 5) - rng.uniform(-0.5, 0.5, (2, 12, 1))) ** 2)
    stars = 1000 * profile[0][:, :, None] * profile[1][:, None] + rng.normal(0, 1, (12, 9, 9))
    np.savez(folder / "stars.npz", image=stars, x=x, y=y)
    np.savez(folder / "at.npz", x=[1.0], y=[1.0])
    np.save(folder / "image.npy", rng.normal(0, 1, (2, 16, 16)))
    np.save(folder / "psf.npy", np.full((5, 5), 0.04))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert call(["fit", "rca", "stars.npz", "-o", "m.zarr"])[0] == 0
        assert call(["simulate", TOY, "survey", *SMALL])[0] == 0
        code, out = call(["ingest", "survey/survey.yaml", "IMAGE0", "-o", "s.zarr"])
        assert code == 0, out
    return folder


@pytest.fixture
def here(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(inputs, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.parametrize("command", COMMANDS)
def test_output__is_replaced_with_overwrite_alone(here: Path, command: str) -> None:
    words, made = COMMANDS[command]
    code, out = call(words)
    assert code == 0, out
    if command == "ingest":
        code, out = call(words)
        assert code == 0
        assert "nothing to do" in out
        words = [word.replace("IMAGE0", "IMAGE1") for word in words]
    before = state(here)
    code, out = call(words)
    assert code == 2, out
    assert state(here) == before
    assert made in out.replace(" ", "")
    assert "--overwrite" in out
    assert ("--append" in out) == (command == "ingest")
    code, out = call([*COMMANDS[command][0], "--overwrite"])
    assert code == 0, out
    after = state(here)
    assert after.keys() == before.keys()
    changed = {path for path in after if after[path] != before[path]}
    assert changed == {path for path in after if made.split("_")[0] in path.as_posix()}


@pytest.mark.parametrize("foreign", ["a.txt", "folder", "m.zarr", "s.zarr"])
@pytest.mark.parametrize("command", ONLY_OWN)
def test_overwrite__replaces_what_the_command_makes_and_nothing_else(
    here: Path, command: str, foreign: str
) -> None:
    words, made = COMMANDS[command]
    if (command, foreign) in {("fit", "m.zarr"), ("ingest", "s.zarr")}:
        pytest.skip("is what the command makes")
    (here / "a.txt").write_text("notes")
    (here / "folder").mkdir()
    (here / "folder" / "notes").write_text("notes")
    (here / foreign).rename(here / made)
    before = state(here)
    code, out = call([*words, "--overwrite"])
    assert code == 2, out
    assert made in out.replace(" ", "")
    assert state(here) == before


def test_ingest__leaves_the_old_survey_where_the_new_one_is_not_whole(here: Path) -> None:
    before = state(here)
    for path in (here / "survey" / "images").iterdir():
        path.write_bytes(path.read_bytes()[:20000])
    words = ["ingest", "survey/survey.yaml", "IMAGE0", "-o", "s.zarr"]
    for added in (["--overwrite"], ["--overwrite", "--append"]):
        code, out = call([*words, *added])
        assert code == 2, out
        assert {p: s for p, s in state(here).items() if "s.zarr" in p.parts} == {
            p: s for p, s in before.items() if "s.zarr" in p.parts
        }
