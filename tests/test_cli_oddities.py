"""Nonsense on the command line: a sentence that says what is wrong, exit code 2, nothing made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from psfscale.cli import app

TOY = str(Path(__file__).parent.parent / "catalogs" / "toy.yaml")
RUN = str(Path(__file__).parent.parent / "catalogs" / "runs" / "toy.yaml")
FIT = ["fit", "rca", "stars.npz", "-o", "new.zarr"]
PREDICT = ["predict", "m.zarr", "at.npz", "-o"]
DECONVOLVE = ["deconvolve", "-i", "image.npy", "-p", "psf.npy", "-o", "out"]
SIMULATE = ["simulate", TOY, "sky", "--exposures", "1", "--ccds", "1"]

ODD: list[tuple[list[str], str]] = [
    (["fit", "rca", "none.npz", "-o", "new.zarr"], "(0, 9, 9)"),
    (["fit", "sprite", "none.npz", "-o", "new.zarr"], "(0, 9, 9)"),
    (["fit", "rca", "/dev/null", "-o", "new.zarr"], "/dev/null"),
    (["fit", "rca", "loop", "-o", "new.zarr"], "loop"),
    (["fit", "RCA", "stars.npz", "-o", "new.zarr"], "choose one of"),
    ([*FIT, "--set", "n_components=0"], "n_components"),
    ([*FIT, "--set", "n_components=-1"], "n_components"),
    ([*FIT, "--set", "n_components=999999999999999999999"], "n_components"),
    ([*FIT, "--set", "row_sparsity=999999999999999999999"], "row_sparsity"),
    ([*FIT, "--set", "band_limit=.inf"], "band_limit"),
    ([*FIT, "--set", "clip=.nan"], "clip"),
    ([*FIT, "--set", "="], "expected key=value"),
    ([*FIT, "--set", ""], "an empty argument"),
    ([*FIT[:-1], "m.zarr/inner.zarr"], "within the store"),
    ([*FIT[:-1], "loop"], "loop"),
    ([*PREDICT, "at.npz", "--overwrite"], "is an input"),
    ([*PREDICT, "m.zarr", "--overwrite"], "is an input"),
    ([*PREDICT, "m.zarr/psf.npz"], "within the store"),
    ([*PREDICT, "/dev/null"], "none of .npz"),
    ([*PREDICT, "psf.npz", "--oversampling", "999999999999999999999"], "at most 10000"),
    ([*PREDICT, "psf.npz", "--size", "999999999999999999999"], "at most 10000"),
    ([*PREDICT, "psf.npz", "--size", "-1"], "--size"),
    ([*DECONVOLVE, "--noise_est", "nan"], "noise_est"),
    ([*DECONVOLVE, "--n_iter", "0"], "n_iter"),
    ([*DECONVOLVE, "--lambda_psf", "inf", "--grad_type", "psf_unknown"], "lambda_psf"),
    ([*DECONVOLVE, "-c", "image.npy", "--kernel", "nan"], "--kernel"),
    ([*DECONVOLVE, "-c", "image.npy", "-r", "-1"], "--random_seed"),
    ([*DECONVOLVE, "-m", "sparse", *["--wave_thresh_factor", *["3"] * 40]], "40 scales"),
    ([*DECONVOLVE, "-m", "sparse", "--wave_thresh_factor"], "requires an argument"),
    ([*DECONVOLVE[:-1], "loop/out"], "loop"),
    ([*DECONVOLVE[:-1], "n" * 300], "too long"),
    ([*SIMULATE, "--stars", "-1"], "stars"),
    ([*SIMULATE, "--seed", "nan"], "--seed"),
    ([*SIMULATE, "--workers", "0"], "workers must be at least 1"),
    ([*SIMULATE, "--set", "instrument.detector.gain.value=.inf"], "gain"),
    (["run", RUN, "--serial", "limits.unit_timeout=.inf"], "unit_timeout"),
    (["simulate", TOY, "loop"], "loop"),
    (["ingest", TOY, "a.fits", "-o", "loop"], "loop"),
    (["ingest", TOY, "a.fits", "-o", "list.yaml"], "list.yaml is not valid"),
    (["ingest", TOY, "a.fits", "-o", "m.zarr"], "not of a survey"),
    (["ingest", TOY, "a.fits", "-o", "new.yaml", "--block", "0"], "a block holds exposures"),
    (["index", "m.zarr", "-o", "new.yaml"], "not of a survey"),
    (["index", "m.zarr", "-o", "/dev/null"], "an index ends in .yaml"),
    (["plan", "run.yaml", "survey=m.zarr"], "not of a survey"),
    (["run", "run.yaml", "--serial", "--workers", "2"], "leave out --cluster and --workers"),
    (["run", "run.yaml", "--serial", "--cluster", "slurm"], "leave out --cluster and --workers"),
    (["run", "run.yaml", "--workers", "0"], "at least one worker"),
    (["run", "run.yaml", "--serial", "--drivers", "0"], "--drivers"),
    (["run", "run.yaml", "--serial", "--wait-lease", "-1"], "--wait-lease"),
    (["run", "run.yaml", "psf.size=99999999"], "psf.size"),
    (["run", "run.yaml", "--dump-config", "survey=m.zarr"], "not of a survey"),
    (["metrics", "m.zarr", "--serial"], "not of a run"),
    (["metrics", "m.zarr", "--table", "stars.CSV"], ".parquet or .csv"),
    (["report", "m.zarr", "-o", "run.yaml"], ".html"),
    (["report", "m.zarr", "-o", "m.zarr/page.html"], "within the store"),
    (["status", ""], "an empty argument"),
    (["init", "m.zarr/new.yaml"], "within the store"),
]


def call(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    rng = np.random.default_rng(2)
    x, y = rng.uniform(0, 100, (2, 12))
    profile = np.exp(-0.3 * (np.arange(-4, 5) - rng.uniform(-0.5, 0.5, (2, 12, 1))) ** 2)
    stars = 1000 * profile[0][:, :, None] * profile[1][:, None] + rng.normal(0, 1, (12, 9, 9))
    np.savez(folder / "stars.npz", image=stars, x=x, y=y)
    np.savez(folder / "none.npz", image=stars[:0], x=[], y=[])
    np.savez(folder / "at.npz", x=[1.0], y=[1.0])
    np.save(folder / "image.npy", rng.normal(0, 1, (2, 16, 16)))
    np.save(folder / "psf.npy", np.full((5, 5), 0.04))
    np.save(folder / "flat.npy", np.full((50, 50), 1 / 2500))
    (folder / "run.yaml").write_text("survey: none.zarr\noutput: run.zarr\n")
    (folder / "list.yaml").write_text("- 1\n")
    (folder / "loop").symlink_to("loop")
    code, out = call("fit", "rca", str(folder / "stars.npz"), "-o", str(folder / "m.zarr"))
    assert code == 0, out
    return folder


@pytest.mark.parametrize(("words", "sentence"), ODD, ids=lambda value: " ".join(value)[-60:])
def test_command__answers_nonsense_by_a_sentence(
    place: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], sentence: str
) -> None:
    monkeypatch.chdir(place)
    before = {path: path.lstat().st_mtime_ns for path in place.rglob("*")}
    code, out = call(*words)
    assert code == 2, out
    assert sentence.replace(" ", "") in out.replace(" ", "").replace("│", ""), out
    assert "Traceback" not in out
    assert {path: path.lstat().st_mtime_ns for path in place.rglob("*")} == before


def test_command__takes_names_with_spaces_and_letters_of_other_tongues(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    folder = tmp_path / "sp ace ü"
    folder.mkdir()
    for words in (
        [*FIT[:-1], str(folder / "mödel 1.zarr")],
        [*PREDICT, str(folder / "ñ.fits")],
        [*DECONVOLVE[:-1], str(folder / "out put.npz"), "-m", "grad"],
        ["init", str(folder / "new_one.yml")],
    ):
        code, out = call(*words)
        assert code == 0, out
    assert len(list(folder.iterdir())) == 4


def test_deconvolve__takes_psfs_wider_and_flatter_than_the_stamp(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    words = ["deconvolve", "-i", "image.npy", "-p", "flat.npy", "-o", str(tmp_path / "out.npz")]
    code, out = call(*words)
    assert code == 0, out
    with np.load(tmp_path / "out.npz") as file:
        assert np.isfinite(file["primal"]).all()


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&-", ">/dev/full"])
def test_command__ends_well_where_streams_are_closed(place: Path, closed: str) -> None:
    line = f'"{sys.executable}" -m psfscale.cli schema {closed}'
    done = subprocess.run(
        ["bash", "-c", line], cwd=place, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
    )  # fmt: skip
    assert done.returncode == (2 if "full" in closed else 0), done.stderr
    assert "Traceback" not in done.stderr
