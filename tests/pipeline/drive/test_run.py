from __future__ import annotations

import json
import os
import threading
from itertools import pairwise

import numpy as np
import pytest
import toy
import xarray as xr
import zarr

from psfscale.arrays import ObjectFlag, Role, UnitState
from psfscale.attributes import codes_of
from psfscale.errors import ConfigError, RunError, StoreError
from psfscale.pipeline import aggregate_run, metrics_of_stars, open_run, plan_run, run, status
from psfscale.pipeline.events import CcdFailed, RunFinished, RunStarted, UnitFinished
from psfscale.pipeline.ledger.lease import Lease
from psfscale.pipeline.stages.registry import STAGE_NAMES
from psfscale.pipeline.workers.profiles import LocalProfile


def go(folder, *, retry_failed=False, overwrite=False, observers=(), **changes):
    config = toy.make_config(folder, **changes)
    again = {"retry_failed": retry_failed, "overwrite": overwrite}
    return run(config, serial=True, **again, observers=observers)


def test_run__fills_every_product_and_says_so(survey) -> None:
    summary = go(survey)
    assert summary.exit_code == 0
    assert (summary.n_units, summary.n_skipped, summary.n_left) == (6, 0, 0)
    tree = open_run(survey / "run.zarr")
    role = toy.run_arrays(survey / "survey.zarr")["stars/role"]
    np.testing.assert_array_equal(np.isfinite(tree["stars/fit_flux"]), role == Role.FIT)
    np.testing.assert_allclose(
        np.nanmean(tree["stars/fit_flux"], axis=(1, 2)), [1e4, 1e4 + 1], rtol=5e-3
    )
    psf = tree["galaxies/psf"].values
    np.testing.assert_allclose(psf[:, :, :5].sum(axis=(-1, -2)), 1, rtol=1e-5)
    assert np.isnan(psf[:, :, 5:]).all()
    assert tree["ccds/n_reserved"].values.tolist() == [[3, 3]] * 2
    assert (tree["ccds/state"].sel(stage=list(toy.STAGES)) == UnitState.DONE).all()
    assert tree["stage"].values.tolist() == list(STAGE_NAMES)
    assert tree["exposure"].values.tolist() == ["exp-0", "exp-1"]
    assert int(tree["summary/n_exposures"]) == 2
    assert tree["models/rca/mean"].dims[2:] == ("copy", "psf_y", "psf_x")


def test_run__records_what_determined_it(survey) -> None:
    go(survey)
    attributes = open_run(survey / "run.zarr").attrs
    assert attributes["config"]["checks"] == {"grid": 5}
    assert attributes["instrument"]["detector"]["gain"]["source"] == "made up for tests"
    assert {"psfscale", "python", "torch", "numpy", "zarr", "dask"} <= set(attributes["versions"])
    assert len(attributes["survey_fingerprint"]) == 32


def test_run__does_nothing_the_second_time(survey) -> None:
    go(survey)
    before = toy.run_arrays(survey / "run.zarr")
    events = []
    summary = go(survey, observers=[events.append])
    assert (summary.n_units, summary.n_skipped, summary.exit_code) == (0, 6, 0)
    assert [type(e) for e in events] == [RunStarted, RunFinished]
    after = toy.run_arrays(survey / "run.zarr")
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name], err_msg=name)


def test_run__of_an_appended_exposure_touches_that_exposure_alone(survey) -> None:
    go(survey)
    before = toy.run_arrays(survey / "run.zarr")
    toy.append_exposure(survey / "survey.zarr")
    events = []
    go(survey, observers=[events.append])
    assert {e.exposure for e in events if isinstance(e, UnitFinished)} == {2}
    after = toy.run_arrays(survey / "run.zarr")
    assert after["exposure"].tolist() == [f"exp-{i}" for i in range(3)]
    for name, values in before.items():
        if not name.startswith("summary/"):
            np.testing.assert_array_equal(values, after[name][: len(values)], err_msg=name)


def test_run__of_changed_content_reruns_that_exposure_alone(survey) -> None:
    go(survey)
    toy.spoil_ccd(survey / "survey.zarr", 1, 0, how="few")
    plan = plan_run(toy.make_config(survey))
    assert {item.unit.exposure for item in plan.todo} == {1}


def test_run__with_another_model_size_makes_its_arrays_anew(survey) -> None:
    go(survey)
    larger = {"settings": {"n_copies": 3}}
    words = r"finished units \(2 of fit\) whose arrays \(models/rca/mean\) .* give --overwrite"
    with pytest.raises(StoreError, match=words):
        go(survey, model=larger)
    assert go(survey).n_units == 0
    summary = go(survey, model=larger, overwrite=True)
    assert summary.n_units == 6
    assert open_run(survey / "run.zarr")["models/rca/mean"].shape == (2, 2, 3, 11, 11)


@pytest.mark.parametrize(
    ("how", "type_", "message"),
    [
        ("few", "FitError", "1 stars, at least 3 are needed"),
        ("nan", "InputError", "1 stars have NaN or infinite pixels with a positive weight"),
    ],
)
def test_failing_ccd__is_quarantined_and_its_exposure_goes_on(survey, how, type_, message) -> None:
    toy.spoil_ccd(survey / "survey.zarr", 1, 0, how=how)
    events = []
    summary = go(survey, observers=[events.append])
    assert (summary.exit_code, summary.n_left, summary.n_blocked) == (1, 0, 2)
    (failure,) = summary.failures
    assert (failure.stage, failure.exposure_id, failure.ccd_id) == ("fit", "exp-1", 1)
    assert (failure.type, message in failure.message) == (type_, True)
    assert failure.traceback.endswith(failure.message)
    assert [e.ccd_id for e in events if isinstance(e, CcdFailed)] == [1]
    tree = open_run(survey / "run.zarr")
    assert tree["ccds/state"].sel(stage=list(toy.STAGES)).values[1].tolist() == [
        [UnitState.QUARANTINED, UnitState.BLOCKED, UnitState.BLOCKED],
        [UnitState.DONE] * 3,
    ]
    assert np.isnan(tree["models/rca/mean"].values[1, 0]).all()
    assert np.isnan(tree["galaxies/psf"].values[1, 0]).all()
    assert tree["galaxies/flags"].values[1, 0, :6].tolist() == [ObjectFlag.PSF_MISSING] * 5 + [0]
    assert f"fit exp-1 CCD 1: {type_}: " in str(status(survey / "run.zarr"))


def test_failing_ccd__is_tried_again_only_when_asked_and_alone(survey) -> None:
    toy.spoil_ccd(survey / "survey.zarr", 1, 0, how="nan")
    go(survey)
    toy.mend_ccd(survey / "survey.zarr", 1, 0)
    assert go(survey).n_units == 0
    again = go(survey, retry_failed=True)
    assert (again.exit_code, again.n_units) == (0, 3)
    go(survey, output=survey / "other.zarr")
    toy.require_same_arrays(survey / "run.zarr", survey / "other.zarr")


def test_psf_check__quarantines_a_psf_of_unbelievable_size(survey, monkeypatch) -> None:
    psf = toy.INSTRUMENT["instrument"]["psf"]
    monkeypatch.setitem(psf, "fwhm_minimum", toy.quantity(0.9, "arcsec"))
    toy.write_instrument(survey)
    summary = go(survey)
    assert {f.type for f in summary.failures} == {"PsfCheckError"}
    assert summary.ccds["fit"]["QUARANTINED"] == 4


def test_empty_ccd__is_no_failure(survey) -> None:
    root = toy.open_root(survey / "survey.zarr", mode="r+")
    root["stars/role"][0, 1] = 0
    root["galaxies/role"][0, 1] = 0
    summary = go(survey)
    assert summary.exit_code == 0
    states = open_run(survey / "run.zarr")["ccds/state"].sel(stage=list(toy.STAGES))
    assert states.values[0, 1].tolist() == [UnitState.EMPTY] * 3


def test_stage_that_is_not_asked_for__says_so(survey) -> None:
    def states(stage):
        return open_run(survey / "run.zarr")["ccds/state"].sel(stage=stage).values

    toy.open_root(survey / "survey.zarr", mode="r+")["exposures/complete"][1] = 0
    go(survey, psf={"at_galaxies": False})
    named = codes_of(open_run(survey / "run.zarr")["ccds/state"].attrs)
    assert {named["NOT_ASKED"], named["PENDING"]} == {5, 0}
    assert (states("restore") == UnitState.NOT_ASKED).all()
    assert (states("psf") == UnitState.NOT_ASKED).all()
    assert states("fit").tolist() == [[UnitState.DONE] * 2, [UnitState.NOT_ASKED] * 2]
    toy.spoil_ccd(survey / "survey.zarr", 1, 0, how="few")
    with pytest.raises(KeyboardInterrupt):
        go(survey, observers=[interrupt_at_the_start])
    assert (states("restore") == UnitState.NOT_ASKED).all()
    assert (states("psf") == UnitState.PENDING).all()
    assert (states("fit")[1] == UnitState.PENDING).all()
    go(survey)
    assert (states("psf") == [[UnitState.DONE] * 2, [UnitState.BLOCKED, UnitState.DONE]]).all()
    go(survey, psf={"at_galaxies": False})
    assert (states("psf")[0] == UnitState.DONE).all(), "products of before stay"
    assert set(status(survey / "run.zarr").ccds["fit"]) == {
        "DONE",
        "EMPTY",
        "QUARANTINED",
        "BLOCKED",
        "DOUBTFUL",
    }


def interrupt_at_the_start(event) -> None:
    if isinstance(event, RunStarted):
        raise KeyboardInterrupt


def test_run__stops_early_when_too_many_ccds_fail(survey) -> None:
    for exposure in range(2):
        toy.spoil_ccd(survey / "survey.zarr", exposure, 0, how="few")
        toy.spoil_ccd(survey / "survey.zarr", exposure, 1, how="few")
    limits = {"failed_fraction": 0.3, "failed_minimum": 2}
    with pytest.raises(RunError, match=r"2 of 2 CCDs failed, more than limits\.failed_fraction"):
        go(survey, limits=limits)
    stands = status(survey / "run.zarr")
    assert stands.units["fit"]["failed"] == 1
    assert stands.units["fit"]["pending"] == 1
    assert stands.driver == "none"


def test_stage__that_returns_another_shape_is_refused(survey, monkeypatch) -> None:
    import mean_star

    monkeypatch.setattr(mean_star.MeanStar, "state", lambda self: {"mean": np.zeros((1, 5, 11))})
    (first, *_) = go(survey).failures
    assert first.type == "StoreError"
    assert "models/rca/mean of shape (1, 5, 11), declared (1, 11, 11)" in first.message


def test_write_region__refuses_a_cut_through_a_shard(survey) -> None:
    from psfscale.store.stores import write_region

    go(survey)
    array = zarr.open_group(survey / "run.zarr", mode="r+")["stars/fits"]
    with pytest.raises(StoreError, match="is not one whole stored object"):
        write_region(array, (0, 1), np.zeros(array.shape[2:], "f4"))


def test_events_log__holds_every_event_with_its_time(survey) -> None:
    go(survey)
    lines = (survey / "run.zarr/.psfscale/events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert [e["event"] for e in events].count("UnitFinished") == 6
    assert events[0]["event"] == "RunStarted"
    assert events[-1]["event"] == "RunFinished"
    assert all(a["time"] <= b["time"] for a, b in pairwise(events))
    assert all(e["peak_memory"] > 1e6 for e in events if e["event"] == "UnitFinished")


def test_run__is_refused_while_another_driver_holds_it(survey) -> None:
    go(survey)
    with (
        Lease(survey / "run.zarr"),
        pytest.raises(RunError, match=f"held by another driver .*process {os.getpid()}"),
    ):
        go(survey)


def test_run__refuses_a_folder_that_is_no_store(survey) -> None:
    (survey / "run.zarr").mkdir()
    (survey / "run.zarr/thesis.tex").touch()
    with pytest.raises(StoreError, match="holds something that is not a psfscale store"):
        go(survey)


def test_run__refuses_a_cluster_for_a_serial_run(survey) -> None:
    with pytest.raises(ConfigError, match="a serial run takes no cluster"):
        run(toy.make_config(survey), serial=True, cluster=LocalProfile())


def test_run__sweeps_what_a_killed_writer_left(survey) -> None:
    go(survey)
    stray = survey / "run.zarr/stars/fits/c.0.0.0.0.abc.partial"
    stray.touch()
    go(survey)
    assert not stray.exists()


def test_run__works_outside_the_main_thread(survey) -> None:
    codes = []
    thread = threading.Thread(target=lambda: codes.append(go(survey).exit_code))
    thread.start()
    thread.join()
    assert codes == [0]


def test_aggregate_run__gives_the_same_again(survey) -> None:
    go(survey)
    before = toy.run_arrays(survey / "run.zarr")
    summary = aggregate_run(survey / "run.zarr")
    assert summary.as_dict()["n_reserved"] == 12
    assert "reserved stars" in str(summary)
    after = toy.run_arrays(survey / "run.zarr")
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name], err_msg=name)


def test_metrics_of_stars__writes_a_row_for_every_star(survey) -> None:
    import pandas as pd

    go(survey)
    n_stars = 2 * toy.N_CCDS * toy.N_FILLED
    assert metrics_of_stars(survey / "run.zarr", survey / "stars.parquet") == n_stars
    assert len(pd.read_parquet(survey / "stars.parquet")) == n_stars


def test_store__opens_with_plain_xarray_and_consolidated_metadata(survey) -> None:
    go(survey)
    toy.append_exposure(survey / "survey.zarr")
    go(survey)
    group = zarr.open_group(survey / "run.zarr", mode="r", use_consolidated=True)
    assert group["stars/metrics"].shape[0] == 3
    tree = xr.open_datatree(survey / "run.zarr", engine="zarr")
    packed = tree["stars"].metrics.sel(metric="flux")
    assert packed.dims == ("exposure", "ccd", "star")
    flux = open_run(survey / "run.zarr")["stars/flux"]
    np.testing.assert_array_equal(packed, flux)
    assert flux.attrs["units"] == "electron"
