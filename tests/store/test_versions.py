"""Stores of earlier schema versions are read by every reader; a later one is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import xarray as xr
from golden_stores import VERSIONS, unpack

from psfscale.arrays import FieldPoints, ObjectFlag, PixelGrid, Role, UnitState
from psfscale.attributes import codes_of
from psfscale.errors import StoreError
from psfscale.ingest.store import _add_lacking
from psfscale.pipeline import aggregate_run, open_run, report_run, status, verify
from psfscale.pipeline.results.products import metrics_of_stars
from psfscale.store.migration import migrate_store
from psfscale.store.saved_models import load_model
from psfscale.store.stores import open_root, open_tree
from psfscale.store.versions import SCHEMA_VERSION


@pytest.fixture(params=VERSIONS)
def golden(request, tmp_path, monkeypatch):
    """A folder with the stores of one version; the working directory, as runs need it."""
    monkeypatch.chdir(tmp_path)
    return unpack(request.param, tmp_path)


def test_earlier_survey__is_read_as_one_of_today(golden) -> None:
    tree = open_tree(golden / "survey.zarr")
    assert tree["stars/image"].dims == ("exposure", "ccd", "star", "stamp_y", "stamp_x")
    assert codes_of(tree["stars/flags"].attrs).items() <= ObjectFlag.__members__.items()
    assert codes_of(tree["stars/role"].attrs).items() <= Role.__members__.items()
    assert tree["exposures/n_refused"].attrs["reason_meanings"].startswith("NOT_SELECTED ")
    stars = tree["stars"].to_dataset()
    there = (stars.role != Role.EMPTY).values
    assert there.sum(axis=2).tolist() == [[12, 12], [12, 1]]
    np.testing.assert_allclose(np.nansum(stars.image.values[0, 0, 0]), 1e4, rtol=0.01)
    assert (stars.id.values[0, 0, :3] == [1000, 1001, 1002]).all()


@pytest.mark.torch
def test_earlier_run__is_read_as_one_of_today(golden) -> None:
    run = open_run(golden / "run.zarr")
    assert run.attrs["config"]["output"] == "run.zarr"
    assert run.attrs["instrument"]["detector"]["columns"] == 400
    galaxies = run.galaxies(exposure="exp-0", ccd=1)
    assert galaxies.psf.dims == ("galaxy", "psf_y", "psf_x")
    assert galaxies.image.dims == ("galaxy", "stamp_y", "stamp_x")
    np.testing.assert_allclose(galaxies.psf.sum(["psf_y", "psf_x"]), 1, rtol=1e-5)
    assert np.isfinite(galaxies.restored).all()
    assert run["ccds/mean_star"].dims == ("exposure", "ccd", "stamp_y", "stamp_x")
    states = codes_of(run["ccds/state"].attrs)
    assert states["QUARANTINED"] == UnitState.QUARANTINED
    assert "flag_masks" in run["stars/fit_flags"].attrs
    psf = run.psf(exposure="exp-0", ccd=2, x=[100.0], y=[50.0])
    np.testing.assert_allclose(psf.sum(["psf_y", "psf_x"]), 1, rtol=1e-5)


@pytest.mark.torch
def test_earlier_model__predicts_what_its_run_does(golden) -> None:
    at, grid = FieldPoints(x=np.array([30.0]), y=np.array([40.0])), PixelGrid(shape=(11, 11))
    field = open_run(golden / "run.zarr").model(exposure="exp-0", ccd=1)
    saved = load_model(golden / "model.zarr")
    np.testing.assert_array_equal(saved.predict(at, grid), field.predict(at, grid))


@pytest.mark.torch
def test_earlier_run__is_counted_checked_tabulated_and_reported(golden) -> None:
    run = golden / "run.zarr"
    found = status(run)
    assert (found.ccds["fit"]["DONE"], found.ccds["fit"]["QUARANTINED"]) == (3, 1)
    assert verify(run).ok
    assert metrics_of_stars(run, golden / "stars.csv") == 37
    report_run(run, golden / "page.html")
    assert "n_components" in (golden / "page.html").read_text()
    before = open_run(run).metrics("survey").load()
    aggregate_run(run)
    xr.testing.assert_identical(open_run(run).metrics("survey").load(), before)


def test_earlier_store__is_refused_for_changes_of_its_layout(golden) -> None:
    root = open_root(golden / "survey.zarr", mode="r+")
    with pytest.raises(StoreError, match=r"psfscale migrate .*survey\.zarr"):
        root["stars/id"].resize((9, 2, 16))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"psfscale_schema": SCHEMA_VERSION + 1}, "has schema version .*install a newer psfscale"),
        ({"psfscale_schema": "two"}, "has schema version two"),
        ({}, "not the metadata of a psfscale store"),
    ],
)
def test_open_root__refuses_a_store_it_cannot_know(tmp_path, edit, words) -> None:
    unpack(VERSIONS[-1], tmp_path)
    shutil.rmtree(tmp_path / "run.zarr")
    file = tmp_path / "survey.zarr/zarr.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps(document | {"attributes": edit}))
    with pytest.raises(StoreError, match=words):
        open_root(tmp_path / "survey.zarr")
    file.write_text("{")
    with pytest.raises(StoreError, match=r"zarr\.json is not the metadata"):
        open_root(tmp_path / "survey.zarr")


def test_migrated_survey__takes_the_arrays_it_lacks_before_exposures_are_added(golden) -> None:
    path = golden / "survey.zarr"
    migrate_store(path)
    before = open_tree(path)["stars"].to_dataset().load()
    _add_lacking(path, open_root(path, mode="r+"))
    stars = open_tree(path)["stars"].to_dataset()
    assert stars.jacobian.dims == ("exposure", "ccd", "star", "sky", "pixel")
    assert np.isnan(stars.jacobian).all()
    assert open_tree(path)["exposures/wcs"].values.tolist() == [["", ""], ["", ""]]
    xr.testing.assert_identical(stars[list(before)], before)
