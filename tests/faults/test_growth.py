"""Run stores killed before changes of the disk while they grow, or change their shapes."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import toy
from mortal import Killed, Mortal

from psfscale.errors import StoreError
from psfscale.pipeline import open_run, plan_run, run, status, verify
from psfscale.pipeline.events import RunStarted, UnitSubmitted
from psfscale.store.stores import open_root

pytestmark = pytest.mark.slow

TRIES = 6
"""Moments of a growth that are tried, beside the last ones."""


@pytest.fixture
def mortal(monkeypatch):
    return Mortal(monkeypatch, stores=True)


def changes_before_the_first_unit(config, mortal: Mortal, **again: bool) -> list[str]:
    """Run to the end; the changes that prepare the store."""
    mortal.changes, prepared = [], []

    def observe(event) -> None:
        if isinstance(event, RunStarted):
            prepared.extend(mortal.changes)

    run(config, serial=True, observers=[observe], **again)
    return prepared


def moments(story: list[str]) -> list[int]:
    n = len(story)
    return sorted({*range(0, n, max(n // TRIES, 1)), *range(n - 2, n)})


def die_at(config, mortal: Mortal, moment: int, **again: bool) -> None:
    mortal.left, mortal.changes = moment, []
    with pytest.raises(Killed):
        run(config, serial=True, observers=[], **again)
    mortal.left = None
    (config.output / ".psfscale/lease.json").unlink(missing_ok=True)


def resume(config, **again: bool) -> set:
    seen: list = []
    assert run(config, serial=True, observers=[seen.append], **again).exit_code == 0
    return {(e.stage, e.exposure) for e in seen if isinstance(e, UnitSubmitted)}


def test_growth__killed_at_any_moment_loses_no_finished_product(survey, mortal) -> None:
    shutil.rmtree(survey / "survey.zarr")
    toy.make_survey(survey / "survey.zarr", 2)
    first = toy.make_config(survey, output=survey / "first.zarr")
    run(first, serial=True, observers=[])
    toy.append_exposure(survey / "survey.zarr")
    quiet = toy.make_config(survey, output=survey / "quiet.zarr")
    shutil.copytree(first.output, quiet.output)
    story = changes_before_the_first_unit(quiet, mortal)
    resized = [change for change in story if change.endswith("zarr.json")]
    assert resized.index("set exposure/zarr.json") > resized.index("set stars/fits/zarr.json")
    new = {(stage, 2) for stage in toy.STAGES}
    for moment in moments(story):
        config = toy.make_config(survey, output=survey / f"run-{moment}.zarr")
        shutil.copytree(first.output, config.output)
        die_at(config, mortal, moment)
        assert {item.unit.key for item in plan_run(config).todo} == new, story[moment]
        assert status(config.output).units["fit"]["done"] == 2
        assert len(open_run(config.output).metrics("star")["e1_star"]) >= 2 * 2 * toy.N_FILLED
        assert resume(config) == new, story[moment]
        toy.require_same_arrays(config.output, quiet.output)
        assert verify(config.output).ok
        shutil.rmtree(config.output)


def test_change_of_shape__killed_at_any_moment_books_nothing_that_is_gone(survey, mortal) -> None:
    shutil.rmtree(survey / "survey.zarr")
    toy.make_survey(survey / "survey.zarr", 1)
    first = toy.make_config(survey, output=survey / "first.zarr")
    run(first, serial=True, observers=[])
    larger = {"model": {"settings": {"n_copies": 3}}}
    quiet = toy.make_config(survey, output=survey / "quiet.zarr", **larger)
    shutil.copytree(first.output, quiet.output)
    story = changes_before_the_first_unit(quiet, mortal, overwrite=True)
    for moment in moments(story):
        config = toy.make_config(survey, output=survey / f"run-{moment}.zarr", **larger)
        shutil.copytree(first.output, config.output)
        die_at(config, mortal, moment, overwrite=True)
        stored = open_root(config.output).get("models/rca/mean")  # None: between two renames
        done = {("fit", 0)} - {item.unit.key for item in plan_run(config).todo}
        assert not done, story[moment]
        books = open_root(config.output)["units/fingerprint"][0]
        assert not books[0] or (stored is not None and stored.shape[2] == 1), story[moment]
        resume(config, overwrite=True)
        toy.require_same_arrays(config.output, quiet.output)
        shutil.rmtree(config.output)


@pytest.mark.parametrize("how", ["ids", "fewer", "content", "ccds"])
def test_run_of_another_survey__is_refused_untouched_and_begun_anew_when_told(survey, how) -> None:
    config = toy.make_config(survey)
    run(config, serial=True, observers=[])
    before = toy.run_arrays(config.output)
    toy.make_survey(survey / "other.zarr", 3 if how == "fewer" else 4)
    root = open_root(survey / "other.zarr", mode="r+")
    if how == "ids":
        root["exposure"][:] = root["exposures/id"][:] = np.array([*"abcd"], object)
    if how == "content":
        root["stars/image"][...] = root["stars/image"][...] * 2
        root["exposures/content"][:] = np.array([*"wxyz"], object)
    if how == "ccds":
        root["ccd"][:] = [5, 6]
    other = toy.make_config(survey, survey=survey / "other.zarr")
    words = {
        "ids": "exposure 0 is exp-0, the survey's a",
        "fewer": "it has 4 exposures, the survey 3",
        "content": "none of its 4 exposures has the content",
        "ccds": "its CCDs are others",
    }
    for refused in (lambda: run(other, serial=True, observers=[]), lambda: plan_run(other)):
        with pytest.raises(StoreError, match=f"another survey .*{words[how]}.* --overwrite"):
            refused()
    after = toy.run_arrays(config.output)
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name], err_msg=name)
    assert not plan_run(config).n_todo
    assert verify(config.output).ok
    if how in ("fewer", "content"):
        run(other, serial=True, overwrite=True, observers=[])
        fresh = toy.make_config(survey, survey=other.survey, output=survey / "fresh.zarr")
        run(fresh, serial=True, observers=[])
        toy.require_same_arrays(other.output, fresh.output)
        assert verify(other.output).ok


def test_run__goes_on_where_some_exposures_have_changed(survey) -> None:
    config = toy.make_config(survey)
    run(config, serial=True, observers=[])
    toy.spoil_ccd(survey / "survey.zarr", 1, 0, how="few")
    assert {item.unit.key for item in plan_run(config).todo} == {(s, 1) for s in toy.STAGES}
    assert run(config, serial=True, observers=[]).n_units == 3
