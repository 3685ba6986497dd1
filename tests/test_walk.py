"""The whole walk from the command line: simulate, ingest, plan, run, status, metrics, report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from psfscale import open_run
from psfscale.cli import app

ROOT = Path(__file__).parent.parent


def call(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy survey of one exposure and two CCDs, one of them with two stars only, run."""
    home = tmp_path_factory.mktemp("walk")
    sky, store = home / "sky", home / "survey.zarr"
    call(
        "simulate", ROOT / "catalogs/toy.yaml", sky, "--exposures", 1, "--ccds", 2,
        "--stars", 60, "--galaxies", 10, "--set", "simulate.defects.starless=[[0,2]]",
    )  # fmt: skip
    call("ingest", sky / "survey.yaml", *sorted((sky / "images").iterdir()), "-o", store)
    run = home / "run.yaml"
    run.write_text(f"survey: {store}\noutput: run.zarr\n")
    return home


@pytest.fixture(scope="module")
def finished(walk: Path) -> Path:
    """The run's store, after a run with one CCD that cannot be fitted."""
    assert "fit" in call("plan", walk / "run.yaml")
    out = call("run", walk / "run.yaml", "--serial", code=1)
    assert "1 CCDs quarantined" in out
    return walk / "run.zarr"


def test_walk__beats_the_mean_star_on_reserved_stars(finished: Path) -> None:
    summary = json.loads(call("metrics", finished, "--json"))
    assert summary["n_ccds"] == 1
    assert summary["n_reserved"] >= 5
    # the toy's PSFs differ from their CCD's mean by 5 to 10 %
    assert summary["model_rel_rmse"] < 0.9 * summary["mean_star_rel_rmse"]


def test_walk__draws_unit_psfs_at_every_galaxy_of_a_good_ccd(finished: Path) -> None:
    with xr.open_datatree(finished, engine="zarr") as run:
        psf = run["galaxies"].psf.isel(exposure=0).load()
    np.testing.assert_allclose(psf.sel(ccd=1)[:10].sum(["psf_y", "psf_x"]), 1, rtol=1e-5)
    assert np.isnan(psf.sel(ccd=1)[10:]).all()
    assert np.isnan(psf.sel(ccd=2)).all()


def test_walk__agrees_with_the_true_psf(walk: Path, finished: Path) -> None:
    from astropy.io import fits

    with fits.open(next((walk / "sky/truth").iterdir())) as truth:
        psf = truth["PSF_GALAXIES", 1].data.astype(float)
    # 63² at 3×: the pixel's own scale has its centre on index 31
    native = psf[:, 1::3, 1::3]
    native /= native.sum(axis=(1, 2), keepdims=True)
    with xr.open_datatree(finished, engine="zarr") as run:
        drawn = run["galaxies"].psf.isel(exposure=0).sel(ccd=1)[:10].values
    middle = slice(20 - 10, 20 + 11)
    drawn = drawn[:, middle, middle] / drawn[:, middle, middle].sum(axis=(1, 2), keepdims=True)
    error = np.linalg.norm(drawn - native, axis=(1, 2)) / np.linalg.norm(native, axis=(1, 2))
    # 60 stars determine the field to a few per cent; a shift of half a fine pixel is 0.15
    assert np.median(error) < 0.08


def test_walk__shapes_along_the_sky_are_turned_by_the_roll_of_the_exposure(finished: Path) -> None:
    run = open_run(finished)
    stars = run.metrics("star")
    turn = np.exp(2j * np.deg2rad(20))  # the toy's first exposure is rolled by 20 degrees
    for of in ("star", "model"):
        pixels, sky = (
            stars[f"e1_{of}{frame}"].values + 1j * stars[f"e2_{of}{frame}"].values
            for frame in ("", "_sky")
        )
        known = np.isfinite(pixels)
        assert known.sum() >= 20
        # North turns by 4e-4 over the CCD.
        np.testing.assert_allclose(sky[known], (pixels * turn)[known], atol=3e-4)


def test_walk__names_the_failure_from_the_store_alone(finished: Path) -> None:
    state = json.loads(call("status", finished, "--json"))
    assert [(f["stage"], f["ccd_id"], f["type"]) for f in state["failures"]] == [
        ("fit", 2, "FitError")
    ]
    assert "FitError" in call("status", finished)


def test_walk__does_nothing_twice(walk: Path, finished: Path) -> None:
    out = call("run", walk / "run.yaml", "--serial", code=1)
    assert "0 units run, 3 were done before" in out


def test_walk__refits_no_star_for_another_galaxy_stamp(walk: Path, finished: Path) -> None:
    out = call("plan", walk / "run.yaml", "psf.size=31")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()[1:4]}
    assert rows["fit"][1] == "1"
    assert rows["psf"][1] == "0"
    assert rows["metrics"][1] == "1"


def test_walk__exports_a_row_a_star(walk: Path, finished: Path, tmp_path: Path) -> None:
    import pandas as pd

    call("metrics", finished, "--table", tmp_path / "stars.parquet")
    table = pd.read_parquet(tmp_path / "stars.parquet")
    with xr.open_datatree(walk / "survey.zarr", engine="zarr") as survey:
        n_taken = int(survey["exposures"].n_stars.sum())
        n_refused = int(survey["exposures"].n_refused.sum())
    assert len(table) == n_taken == 62 - n_refused
    assert {"exposure", "ccd", "id", "e1_star", "e1_model"} <= set(table.columns)


def test_walk__ends_in_one_page(finished: Path, tmp_path: Path) -> None:
    call("report", finished, "-o", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "FitError" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
