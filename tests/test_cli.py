"""The command line: instant help, one-sentence errors, exit codes, stacks in and out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from typer.testing import CliRunner

from psfscale import __version__
from psfscale.cli import app

if TYPE_CHECKING:
    from pathlib import Path

VERBS = [
    "simulate", "ingest", "plan", "run", "status", "metrics", "report", "fit", "predict",
    "deconvolve", "schema",
]  # fmt: skip


def call(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.output


def write_stars(path: Path, n: int = 60) -> None:
    """Gaussian stars whose width grows along x, at random sub-pixel phases."""
    rng = np.random.default_rng(5)
    x, y = rng.uniform(0, 1000, (2, n))
    dy, dx = rng.uniform(-0.5, 0.5, (2, n, 1, 1))
    rows, columns = np.mgrid[:21, :21] - 10.0
    variance = (2 + x / 1000)[:, None, None]
    image = 4000 * np.exp(-((rows - dy) ** 2 + (columns - dx) ** 2) / 2 / variance)
    np.savez(path, image=image + rng.normal(0, 3, image.shape), x=x, y=y, sigma=np.full(n, 3.0))


def test_help__is_instant_and_lists_the_verbs_in_order() -> None:
    start = sum(os.times()[2:4])
    out = subprocess.run(
        [sys.executable, "-m", "psfscale.cli", "--help"], check=True, capture_output=True, text=True
    ).stdout
    # CPU of the command, which a loaded machine leaves alone; ten times the quarter second it takes
    assert sum(os.times()[2:4]) - start < 3
    places = [out.index(f"│ {verb} ") for verb in VERBS]
    assert places == sorted(places)


@pytest.mark.parametrize("verb", VERBS)
def test_help__of_each_verb(verb: str) -> None:
    code, out = call(verb, "--help")
    assert code == 0
    assert "Usage" in out


def test_version__is_the_package_version() -> None:
    assert call("--version") == (0, f"psfscale {__version__}\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["plan", "none.yaml"], "no such file: none.yaml"),
        (["status", "none.zarr"], "no run store at none.zarr"),
        (["fit", "rca", "none.npz", "-o", "m.zarr"], "no such file: none.npz"),
        (["fit", "magic", "none.npz", "-o", "m.zarr"], "there is no PSF model 'magic'"),
        (["predict", "none.zarr", "at.npz", "-o", "p.npz"], "no psfscale store at none.zarr"),
        (["simulate", "none.yaml", "out"], "no such file: none.yaml"),
        (["ingest", "none.yaml", "a.fits", "-o", "s.zarr"], "no such file: none.yaml"),
    ],
)
def test_wrong_input__ends_in_one_sentence_and_exit_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out = call(*words)
    assert code == 2
    assert sentence in out
    assert "Traceback" not in out


@pytest.mark.torch
def test_fit_and_predict__carry_a_stack_through(tmp_path: Path) -> None:
    write_stars(tmp_path / "stars.npz")
    np.savez(tmp_path / "at.npz", x=[50.0, 950.0], y=[500.0, 500.0])
    code, out = call(
        "fit", "rca", tmp_path / "stars.npz", "-o", tmp_path / "m.zarr",
        "--set", "n_components=3", "--set", "upsampling=2",
    )  # fmt: skip
    assert code == 0, out
    assert "60 stars used" in out
    code, out = call(
        "predict", tmp_path / "m.zarr", tmp_path / "at.npz", "-o", tmp_path / "psf.npz",
        "--oversampling", 2, "--size", 41,
    )  # fmt: skip
    assert code == 0, out
    with np.load(tmp_path / "psf.npz") as file:
        psf = file["psf"]
        assert file["extrapolated"].tolist() == [False, False]
    assert psf.shape == (2, 41, 41)
    np.testing.assert_allclose(psf.sum(axis=(1, 2)), 1, rtol=1e-5)
    # widths: variance 2 + x/1000 px² an axis, times 4 on the twice finer grid
    rows = np.arange(41) - 20.0
    variance = np.einsum("oyx,y->o", np.clip(psf, 0, None), rows**2) / 4
    np.testing.assert_allclose(variance, [2.05, 2.95], rtol=0.1)


@pytest.mark.torch
def test_fit__says_what_is_doubtful_of_the_stars(tmp_path: Path) -> None:
    write_stars(tmp_path / "stars.npz", n=20)
    with np.load(tmp_path / "stars.npz") as file:
        arrays = dict(file)
    arrays["image"] = arrays["image"] + 1000
    np.savez(tmp_path / "stars.npz", **arrays)
    code, out = call(
        "fit", "rca", tmp_path / "stars.npz", "-o", tmp_path / "m.zarr",
        "--set", "n_components=1", "--set", "degree=0",
    )  # fmt: skip
    assert code == 0, out
    assert "doubtful by sky: the border of the stamps lies off zero by" in out


def test_fit__refuses_an_unknown_setting_by_name(tmp_path: Path) -> None:
    write_stars(tmp_path / "stars.npz", n=10)
    code, out = call(
        "fit", "rca", tmp_path / "stars.npz", "-o", tmp_path / "m.zarr", "--set", "depth=3"
    )
    assert code == 2
    assert "depth" in out
    assert not (tmp_path / "m.zarr").exists()


def test_fit__does_not_overwrite_a_model(tmp_path: Path) -> None:
    write_stars(tmp_path / "stars.npz", n=10)
    (tmp_path / "m.zarr").mkdir()
    code, out = call("fit", "rca", tmp_path / "stars.npz", "-o", tmp_path / "m.zarr")
    assert code == 2
    assert "exists already" in out


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_stars(folder / "stars.npz")
    words = ["--set", "n_components=2", "--set", "upsampling=1"]
    code, out = call("fit", "rca", folder / "stars.npz", "-o", folder / "m.zarr", *words)
    assert code == 0, out
    return folder / "m.zarr"


def test_fit__replaces_a_model_with_overwrite_and_nothing_else(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "m.zarr")
    words = ["fit", "rca", model.parent / "stars.npz", "--set", "n_components=1"]
    words += ["--set", "upsampling=1", "--overwrite", "-o"]
    code, out = call(*words, tmp_path / "m.zarr")
    assert code == 0, out
    assert [p.name for p in tmp_path.iterdir()] == ["m.zarr"]
    (tmp_path / "thesis").mkdir()
    code, out = call(*words, tmp_path / "thesis")
    assert code == 2
    assert "holds no model" in out
    assert (tmp_path / "thesis").is_dir()


def test_predict__flags_positions_beyond_the_stars(model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "at.npz", x=[500.0, 9e5], y=[500.0, 500.0])
    code, out = call("predict", model, tmp_path / "at.npz", "-o", tmp_path / "psf.npz")
    assert code == 0, out
    assert "1 of them extrapolated" in out
    with np.load(tmp_path / "psf.npz") as file:
        assert file["extrapolated"].tolist() == [False, True]
    code, out = call("predict", model, tmp_path / "at.npz", "-o", tmp_path / "psf.npz")
    assert code == 2
    assert "--overwrite" in out


@pytest.mark.parametrize(
    ("at", "output", "sentence"),
    [
        ({"x": [np.nan], "y": [1.0]}, "psf.npz", "x must be finite"),
        ({"x": [1.0], "y": [1.0], "seds": [1.0]}, "psf.npz", "do you mean 'sed'"),
        ({"x": [1.0], "y": [1.0]}, "psf.hdf5", "the ending of psf.hdf5 is none of .npz, .npy"),
        ({"x": [1.0], "y": [1.0]}, "none/psf.npz", "there is no such folder"),
    ],
)
def test_predict__refuses_before_the_work(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: dict[str, list[float]],
    output: str,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("psfscale.models.rca.model.RCA.predict", None)
    np.savez("at.npz", **at)
    code, out = call("predict", model, "at.npz", "-o", output)
    assert code == 2, out
    assert sentence in out.replace("\n", " ")
    assert [p.name for p in tmp_path.iterdir()] == ["at.npz"]
