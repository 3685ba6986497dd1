"""Frames of stars, galaxies, CCDs and exposures: one row each."""

from __future__ import annotations

import numpy as np
import pytest
import toy

from psfscale.arrays import Role, UnitState
from psfscale.errors import InputError
from psfscale.pipeline import open_run, run
from psfscale.store.stores import open_root, open_tree

PLACED = ["id", "role", "x", "y", "ra", "dec"]


@pytest.fixture
def opened(survey):
    root = open_root(survey / "survey.zarr", mode="r+")
    for group in ("stars", "galaxies"):
        shape = root[f"{group}/id"].shape
        root[f"{group}/id"][...] = np.arange(np.prod(shape)).reshape(shape)
    toy.spoil_ccd(survey / "survey.zarr", 1, 0, how="few")
    run(toy.make_config(survey), serial=True, observers=[])
    return open_run(survey / "run.zarr")


@pytest.mark.parametrize(("level", "group"), [("star", "stars"), ("galaxy", "galaxies")])
def test_frame_of_objects__has_one_row_an_object_with_its_place(opened, level, group) -> None:
    frame = opened.metrics(level).to_dataframe()
    given = opened.survey[group].to_dataset()
    there = given["role"].values != Role.EMPTY
    assert len(frame) == there.sum() == {"star": 3 * 12 + 1, "galaxy": 4 * 5}[level]
    assert frame.id.is_unique
    assert {*PLACED, "exposure", "ccd", "field_x", "snr", "flags"} <= {*frame.columns}
    assert not {"stage", "metric", "image", "psf"} & {*frame.columns}
    for name in PLACED:
        np.testing.assert_array_equal(frame[name], given[name].values[there])
    name = "e1_star" if level == "star" else "flags"
    np.testing.assert_array_equal(frame[name], opened.tree[group][name].values[there])
    second = frame[(frame.exposure == "exp-1") & (frame.ccd == 2)]
    np.testing.assert_array_equal(second.id, given["id"].values[1, 1][there[1, 1]])


def test_frames_of_ccds_and_exposures__have_one_row_each(opened) -> None:
    ccds = opened.metrics("ccd").to_dataframe()
    assert ccds.index.tolist() == [(f"exp-{e}", c) for e in range(2) for c in (1, 2)]
    assert ccds.state_fit.tolist() == [
        UnitState.DONE,
        UnitState.DONE,
        UnitState.QUARANTINED,
        UnitState.DONE,
    ]
    assert {"n_fit", "e1_rmse", "state_metrics"} <= {*ccds.columns}
    exposures = opened.metrics("exposure").to_dataframe()
    assert exposures.index.tolist() == ["exp-0", "exp-1"]
    assert exposures.n_ccds.tolist() == [2, 1]
    assert "stage" not in {*ccds.columns, *exposures.columns}


def test_frame_of_stars__reads_no_array_before_it_is_used(opened) -> None:
    stars = opened.metrics("star")
    read = [name for name in stars.data_vars if stars[name].variable._in_memory]
    assert read == ["role"]  # says which entries are stars


def test_frame_of_stars__is_of_the_exposures_that_the_run_knows(survey, opened) -> None:
    toy.append_exposure(survey / "survey.zarr")
    again = open_run(survey / "run.zarr").metrics("star").to_dataframe()
    assert len(again) == 37
    assert open_tree(survey / "survey.zarr").sizes["exposure"] == 3


def test_frame_of_galaxies__is_refused_where_there_are_none(survey) -> None:
    toy.make_survey(survey / "alone.zarr", 1, galaxies=False)
    config = toy.make_config(survey, survey=survey / "alone.zarr")
    run(config, serial=True, observers=[])
    with pytest.raises(InputError, match="holds no galaxies"):
        open_run(config.output).metrics("galaxy")
