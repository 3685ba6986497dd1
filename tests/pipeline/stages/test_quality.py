"""Doubtful CCDs in a run: their state and reason, what the run says, and what it may do."""

from __future__ import annotations

import json

import mean_star
import numpy as np
import pytest
import toy
from typer.testing import CliRunner

from psfscale.arrays import ObjectFlag, Role, UnitState
from psfscale.cli import app
from psfscale.pipeline import aggregate_run, open_run, plan_run, report_run, run, status
from psfscale.pipeline.ledger.marker import read_markers
from psfscale.store.stores import open_root


def go(folder, **changes):
    return run(toy.make_config(folder, **changes), serial=True, observers=[])


def states(folder, stage: str) -> list[list[int]]:
    return open_run(folder / "run.zarr")["ccds/state"].sel(stage=stage).values.tolist()


DONE, DOUBTFUL, FAILED = UnitState.DONE, UnitState.DOUBTFUL, UnitState.QUARANTINED


@pytest.fixture
def skyful(survey):
    """The toy survey, a sky of 1000 electrons left in the stars of the second CCD."""
    images = open_root(survey / "survey.zarr", mode="r+")["stars/image"]
    images[0, 1] = images[0, 1] + 1000
    return survey


def test_run__marks_a_doubtful_ccd_and_goes_on_with_it(skyful) -> None:
    summary = go(skyful)
    assert summary.exit_code == 0
    assert "1 doubtful" in str(summary)
    assert "1 CCD is doubtful by sky; exposure exp-0 CCD 2: the border of the" in str(summary)
    assert states(skyful, "fit") == [[DONE, DOUBTFUL], [DONE, DONE]]
    assert states(skyful, "psf") == states(skyful, "metrics") == [[DONE, DONE], [DONE, DONE]]
    assert np.isfinite(open_run(skyful / "run.zarr")["galaxies/psf"][0, 1, :5]).all()
    assert open_run(skyful / "run.zarr").model(exposure="exp-0", ccd=2) is not None


def test_run__tells_of_doubts_wherever_it_is_looked_at(skyful, tmp_path) -> None:
    go(skyful)
    path = skyful / "run.zarr"
    assert "fit exp-0 CCD 2 is doubtful: the border of the stamps" in str(status(path))
    (doubt,) = status(path).as_dict()["doubts"]
    assert (doubt["check"], doubt["ccd"]) == ("sky", 1)
    assert str(aggregate_run(path)).startswith("1 CCD is doubtful by sky")
    told = CliRunner().invoke(app, ["metrics", str(path), "--json", "--serial"])
    assert json.loads(told.output)["doubts"] == [doubt]
    report_run(path, tmp_path / "report.html")
    head = (tmp_path / "report.html").read_text().partition("</header>")[0]
    assert "finished, with doubtful CCDs" in head
    assert "is the sky subtracted?" in head


def test_run__keeps_the_reason_when_nothing_is_left_to_do(skyful) -> None:
    config = toy.make_config(skyful)
    go(skyful)
    assert plan_run(config).n_todo == 0
    assert [doubt.check for doubt in go(skyful).doubts] == ["sky"]
    marker = read_markers(skyful / "run.zarr")["fit", 0]
    assert marker.states == (DONE, DOUBTFUL)


def test_run__may_end_with_code_3_or_fail_doubtful_ccds(skyful) -> None:
    assert go(skyful, quality={"exit_code": 3}).exit_code == 3
    assert plan_run(toy.make_config(skyful)).n_todo == 0, "the code changes no result"
    summary = go(skyful, quality={"on_doubt": "fail", "exit_code": 3})
    assert summary.exit_code == 1
    assert states(skyful, "fit") == [[DONE, FAILED], [DONE, DONE]]
    assert "PsfCheckError: the border of the stamps" in str(summary.failures[0])
    assert go(skyful, quality={"sky": None}).doubts == ()


def test_retry__of_failed_ccds_keeps_doubts(skyful) -> None:
    toy.spoil_ccd(skyful / "survey.zarr", 0, 0, how="few")
    assert go(skyful).exit_code == 1
    summary = run(toy.make_config(skyful), serial=True, observers=[], retry_failed=True)
    assert states(skyful, "fit") == [[FAILED, DOUBTFUL], [DONE, DONE]]
    assert [doubt.check for doubt in summary.doubts] == ["sky"]


def test_run__falls_back_on_a_simpler_field(survey, monkeypatch) -> None:
    fit = mean_star.MeanStar.fit

    def too_wide(model, stars):
        report = fit(model, stars)
        if model.settings.n_copies == 2:
            model.mean = sum(np.roll(model.mean, shift, axis=1) for shift in (-3, -1, 0, 1, 3)) / 5
        return report

    def simpler(settings):
        return (("a mean star", settings.model_copy(update={"n_copies": 1})),)

    monkeypatch.setattr(mean_star.MeanStar, "fit", too_wide)
    monkeypatch.setattr(mean_star.MeanStarSettings, "simpler", simpler, raising=False)
    role = open_root(survey / "survey.zarr", mode="r+")["stars/role"]
    role[:, :, :6] = Role.RESERVED
    changes = {"model": {"settings": {"n_copies": 2}}}
    doubts = go(survey, **changes).doubts
    assert {doubt.check for doubt in doubts} == {"mean_star_excess"}
    wide = open_run(survey / "run.zarr")["ccds/model_rel_rmse"].values
    fallen = go(survey, **changes, quality={"on_doubt": "fall_back"}).doubts
    assert len(fallen) == len(doubts) == 4
    assert all("fitted anew as a mean star, since on" in str(doubt) for doubt in fallen)
    assert states(survey, "fit") == [[DOUBTFUL] * 2] * 2
    assert (open_run(survey / "run.zarr")["ccds/model_rel_rmse"].values < 0.7 * wide).all()


def test_run__pools_reserved_stars_that_are_few(survey, monkeypatch) -> None:
    draw = mean_star.MeanStar.predict

    def too_wide(model, at, grid):
        psf = draw(model, at, grid)
        wide = sum(np.roll(psf, shift, axis=2) for shift in (-9, -6, -3, 0, 3, 6, 9))
        return wide / wide.sum((1, 2), keepdims=True)

    monkeypatch.setattr(mean_star.MeanStar, "predict", too_wide)
    summary = go(survey, checks={"grid": 2})
    assert states(survey, "fit") == [[DOUBTFUL] * 2] * 2
    assert {doubt.check for doubt in summary.doubts} == {"mean_star_excess"}
    assert "on 6 reserved stars of 2 CCDs of the exposure the model's pixel error is" in str(
        summary.doubts[0]
    )
    failed = go(survey, checks={"grid": 2}, quality={"on_doubt": "fail"})
    assert states(survey, "fit") == [[FAILED] * 2] * 2
    assert failed.n_blocked == 8


def test_run__asks_about_catalogues_whose_objects_lie_outside(survey) -> None:
    root = open_root(survey / "survey.zarr", mode="r+")
    from psfscale.pipeline.runs.context import build_context
    from psfscale.pipeline.stages.registry import stages_of
    from psfscale.pipeline.units.exposure_io import ExposureReader
    from psfscale.pipeline.units.session import Session

    context = build_context(toy.make_config(survey))
    stage = stages_of(context)["fit"]
    ccd = ExposureReader(stage, Session(context), 0).ccd(1)
    assert int(ccd["exposures/n_stars"]) == root["exposures/n_stars"][0, 1] == toy.N_FILLED
    refused = np.array([0, 0, 40, 0, 0, 0, 0])
    results = stage.run(ccd.assign({"exposures/n_refused": ("reason", refused)}), context)
    (doubt,) = results.attrs["verdict"].doubts
    assert doubt.check == "outside_fraction"
    assert "40 of 57 objects" in doubt.message


def test_run__leaves_out_saturated_and_edge_stars_unless_told(survey) -> None:
    root = open_root(survey / "survey.zarr", mode="r+")
    root["stars/flags"][0, 0, :4] = [
        ObjectFlag.SATURATED, ObjectFlag.EDGE, ObjectFlag.MASKED, ObjectFlag.EDGE,
    ]  # fmt: skip
    role = root["stars/role"][0, 0]
    assert role[3] == Role.RESERVED
    go(survey)
    tree = open_run(survey / "run.zarr")
    left_out = [0, 1, 3]
    for name in ("stars/fit_flags", "stars/flags"):
        bits = tree[name][0, 0].values & np.uint32(ObjectFlag.LEFT_OUT)
        assert np.flatnonzero(bits).tolist() == left_out
    assert np.isnan(tree["stars/fit_flux"][0, 0, left_out]).all()
    assert np.isnan(tree["stars/chi2"][0, 0, left_out]).all()
    counts = [int(tree[f"ccds/{name}"][0, 0]) for name in ("n_fit", "n_reserved")]
    assert counts == [7, 2]
    go(survey, stars={"leave_out": []})
    tree = open_run(survey / "run.zarr")
    assert [int(tree[f"ccds/{name}"][0, 0]) for name in ("n_fit", "n_reserved")] == [9, 3]


def test_run__says_that_all_stars_are_left_out(survey) -> None:
    root = open_root(survey / "survey.zarr", mode="r+")
    root["stars/flags"][0, 0] = int(ObjectFlag.SATURATED)
    failure = go(survey).failures[0]
    assert "12 are left out as SATURATED or EDGE (stars.leave_out)" in failure.message


def test_run__says_what_is_doubtful_of_stars_that_cannot_be_fitted(survey) -> None:
    root = open_root(survey / "survey.zarr", mode="r+")
    shape = root["stars/image"].shape[2:]
    root["stars/image"][0, 0] = np.random.default_rng(0).normal(size=shape).astype("f4")
    failure = go(survey, model={"settings": {"min_stars": 20}}).failures[0]
    assert "at least 20 are needed; 89% of the stamps have no star in their" in failure.message
    assert "are x and y swapped" in failure.message
