from __future__ import annotations

import numpy as np
import pytest
import toy

from psfscale.arrays import UnitState
from psfscale.errors import ConfigError, StoreError
from psfscale.pipeline import plan_run, run
from psfscale.pipeline.drive.plan import Plan, Wanted, remaining
from psfscale.pipeline.drive.ready import Frontier
from psfscale.pipeline.ledger.table import Known

DONE, EMPTY = UnitState.DONE, UnitState.EMPTY
FAILED, BLOCKED = UnitState.QUARANTINED, UnitState.BLOCKED
NOW, THEN = 7, 5
STAGES = ("fit", "psf", "metrics")


def wanted(n_exposures: int = 1) -> Wanted:
    ids = np.array([f"exp-{i}" for i in range(n_exposures)])
    prints = np.full((n_exposures, len(STAGES)), NOW, np.uint64)
    return Wanted(stages=STAGES, ids=ids, fingerprints=prints)


def known(**done) -> Known:
    """One exposure of two CCDs; of a stage the fingerprint, or that and its CCDs' states."""
    found = Known.nothing(1, 2, len(STAGES))
    for k, stage in enumerate(STAGES):
        if stage in done:
            value = done[stage]
            print_, states = value if isinstance(value, tuple) else (value, (DONE, DONE))
            found.fingerprints[0, k] = print_
            found.states[0, :, k] = states
    return found


def reasons(known_, *, retry_failed=False) -> dict:
    plan = remaining(wanted(), known_, retry_failed=retry_failed)
    return {t.unit.stage: t.why for t in plan.todo}


def test_remaining__is_what_is_not_done() -> None:
    assert reasons(known()) == dict.fromkeys(STAGES, "missing")
    assert reasons(known(fit=NOW)) == {"psf": "missing", "metrics": "missing"}
    assert not reasons(known(fit=NOW, psf=NOW, metrics=NOW))


def test_remaining__holds_changed_units_alone() -> None:
    assert reasons(known(fit=NOW, psf=NOW, metrics=THEN)) == {"metrics": "changed"}


def test_remaining__holds_all_downstream_of_a_missing_unit() -> None:
    assert reasons(known(psf=NOW, metrics=NOW)) == {
        "fit": "missing",
        "psf": "changed",
        "metrics": "changed",
    }


def test_remaining__tries_failed_ccds_again_only_when_asked() -> None:
    blocked = (NOW, (DONE, BLOCKED))
    failing = known(fit=(NOW, (DONE, FAILED)), psf=blocked, metrics=blocked)
    assert not reasons(failing)
    todo = list(remaining(wanted(), failing, retry_failed=True).todo)
    assert [(t.unit.stage, t.why) for t in todo] == [(stage, "failed") for stage in STAGES]
    assert todo[1].keep == (DONE, BLOCKED)
    assert todo[1].unit.fingerprint == f"{NOW:016x}"


def plan_of(n_exposures: int, *, all_but: tuple[str, ...] = ()) -> Plan:
    done = Known.nothing(n_exposures, 2, len(STAGES))
    for stage in all_but:
        done.fingerprints[:, STAGES.index(stage)] = NOW
    return remaining(wanted(n_exposures), done, retry_failed=False)


def keys(items) -> list:
    return [item.unit.key for item in items]


def test_frontier__hands_out_exposures_in_order_with_all_their_stages() -> None:
    frontier = Frontier(plan_of(2))
    for exposure in (0, 1):
        assert keys(frontier.take()) == [(stage, exposure) for stage in STAGES]
    assert frontier.take() == []
    assert len(frontier) == 6


def test_frontier__frees_a_unit_when_its_own_needs_are_done_and_no_later() -> None:
    frontier = Frontier(plan_of(2))
    first, second = frontier.take(), frontier.take()
    for item in first[1:]:
        frontier.give_back(item.unit.key)
    assert frontier.take() == []
    frontier.give_back(second[1].unit.key)
    frontier.finish(("fit", 0))
    assert keys(frontier.take()) == [("psf", 0), ("metrics", 0)]
    frontier.finish(("fit", 1))
    assert keys(frontier.take()) == [("psf", 1)]
    assert len(frontier) == 4


def test_frontier__does_not_wait_for_units_done_before() -> None:
    frontier = Frontier(plan_of(1, all_but=("fit", "psf")))
    assert keys(frontier.take()) == [("metrics", 0)]


SHARED = ("fit", "sample", "learn", "restore")


def shared_wanted(n_exposures: int = 3, n_sampled: int = 2) -> Wanted:
    """The first are sampled; `learn` gathers `sample`, `restore` gathers `learn`."""
    prints = np.full((n_exposures, len(SHARED)), NOW, np.uint64)
    prints[n_sampled:, 1:3] = 0
    ids = np.array([f"exp-{i}" for i in range(n_exposures)])
    return Wanted(stages=SHARED, ids=ids, fingerprints=prints)


def test_frontier__holds_back_what_gathers_until_the_whole_sample_is_done() -> None:
    nothing = Known.nothing(3, 2, len(SHARED))
    frontier = Frontier(remaining(shared_wanted(), nothing, retry_failed=False))
    first, second, third = (frontier.take() for _ in range(3))
    assert keys(first) == [("fit", 0), ("sample", 0)]
    assert keys(third) == [("fit", 2)]  # does not wait for the sample
    for item in (*first, *third, second[0]):
        frontier.finish(item.unit.key)
    assert frontier.take() == []
    frontier.finish(("sample", 1))
    learning = [frontier.take(), frontier.take()]
    assert [keys(items) for items in learning] == [[("learn", 0)], [("learn", 1)]]
    assert learning[0][0].sample == (0, 1)
    frontier.finish(("learn", 1))
    assert frontier.take() == []
    frontier.finish(("learn", 0))
    restoring = [frontier.take() for _ in range(3)]
    assert [keys(items) for items in restoring] == [[("restore", i)] for i in range(3)]
    assert restoring[2][0].sample == (0, 1)


def test_remaining__holds_all_that_gathers_from_a_missing_unit() -> None:
    done = Known.nothing(3, 2, len(SHARED))
    done.fingerprints[...] = shared_wanted().fingerprints
    assert not list(remaining(shared_wanted(), done, retry_failed=False).todo)
    done.fingerprints[1, SHARED.index("sample")] = 0
    plan = remaining(shared_wanted(), done, retry_failed=False)
    assert plan.gathers_anew
    assert {t.unit.key: t.why for t in plan.todo} == {
        ("sample", 1): "missing",
        **{("learn", i): "changed" for i in range(2)},
        **{("restore", i): "changed" for i in range(3)},
    }


def failed_in_the_sample() -> Known:
    """All done, but for a CCD of the first exposure, which has no PSF."""
    found = Known.nothing(3, 2, len(SHARED))
    found.fingerprints[...] = shared_wanted().fingerprints
    found.states[...] = DONE
    found.states[0, 1] = [FAILED, EMPTY, EMPTY, BLOCKED]
    return found


def test_remaining__leaves_the_prior_alone_when_failed_ccds_are_tried_again() -> None:
    plan = remaining(shared_wanted(), failed_in_the_sample(), retry_failed=True)
    assert {t.unit.key: t.why for t in plan.todo} == {
        ("fit", 0): "failed",
        ("restore", 0): "failed",
    }


def test_remaining__leaves_the_prior_alone_where_a_retry_was_killed() -> None:
    known_ = failed_in_the_sample()
    known_.fingerprints[0, 0] = known_.fingerprints[0, 3] = 0  # struck out before they run again
    plan = remaining(shared_wanted(), known_, retry_failed=False)
    assert {t.unit.key: t.why for t in plan.todo} == {
        ("fit", 0): "missing",
        ("restore", 0): "missing",
    }


@pytest.mark.parametrize("nothing_found", [False, True])
def test_remaining__takes_a_ccd_tried_again_into_a_sample_that_does_not_stand(
    nothing_found,
) -> None:
    known_ = failed_in_the_sample()
    if nothing_found:
        known_.states[..., 1:3] = EMPTY
    else:
        known_.fingerprints[1, SHARED.index("learn")] = 0
    found = {t.unit.key: t.why for t in remaining(shared_wanted(), known_, retry_failed=True).todo}
    assert found[("sample", 0)] == "failed"
    assert found[("learn", 0)] == found[("restore", 2)] == "changed"
    assert ("sample", 1) not in found


def test_remaining__learns_again_when_asked() -> None:
    plan = remaining(shared_wanted(), failed_in_the_sample(), retry_failed=False, learn_again=True)
    assert {t.unit.key: t.why for t in plan.todo} == {
        **{(stage, i): "changed" for stage in ("sample", "learn") for i in range(2)},
        **{("restore", i): "changed" for i in range(3)},
    }


def test_plan_run__samples_the_first_exposures_that_hold_galaxies(survey) -> None:
    toy.append_exposure(survey / "survey.zarr")
    toy.open_root(survey / "survey.zarr", mode="r+")["exposures/n_galaxies"][0] = 0
    restore = {"at_galaxies": True, "learn_exposures": 1}
    plan = plan_run(toy.make_config(survey, restore=restore))
    found = {t.unit.key for t in plan.todo if t.unit.stage in ("sample", "learn", "restore")}
    assert found == {("sample", 1), ("learn", 1), ("restore", 1), ("restore", 2)}


def test_plan_run__is_deterministic_and_writes_nothing(survey) -> None:
    config = toy.make_config(survey)
    plan = plan_run(config)
    assert list(plan.todo) == list(plan_run(config).todo)
    assert plan.counts() == {
        s: {"wanted": 2, "done": 0, "missing": 2, "changed": 0, "failed": 0}
        for s in ("fit", "psf", "metrics")
    }
    assert "metrics          2       0        2" in str(plan)
    assert not config.output.exists()


def test_plan_run__leaves_out_incomplete_exposures(survey) -> None:
    toy.open_root(survey / "survey.zarr", mode="r+")["exposures/complete"][1] = 0
    plan = plan_run(toy.make_config(survey))
    assert plan.n_incomplete == 1
    assert {t.unit.exposure for t in plan.todo} == {0}
    assert "1 exposures are not wholly ingested" in str(plan)


@pytest.mark.torch
def test_plan_run__wants_no_psf_stage_without_galaxies(tmp_path, mean_model) -> None:
    toy.write_instrument(tmp_path)
    toy.make_survey(tmp_path / "survey.zarr", 1, galaxies=False)
    config = toy.make_config(tmp_path)
    assert set(plan_run(config).counts()) == {"fit", "metrics"}
    assert run(config, serial=True, observers=[]).exit_code == 0


def test_plan_run__refuses_a_missing_survey(tmp_path, mean_model) -> None:
    toy.write_instrument(tmp_path)
    with pytest.raises(StoreError, match=r"no psfscale store at .*survey\.zarr"):
        plan_run(toy.make_config(tmp_path))


def test_plan_run__refuses_an_unknown_model_setting(survey) -> None:
    config = toy.make_config(survey, model={"settings": {"n_copy": 2}})
    with pytest.raises(ConfigError, match="settings of model 'rca' is not valid:\n  n_copy"):
        plan_run(config)


def touched(survey, **changes) -> set[str]:
    """Stages whose units all have to run again under changed settings."""
    counts = plan_run(toy.make_config(survey, **changes)).counts()
    assert all(n["changed"] in (0, 2) and not n["missing"] for n in counts.values())
    return {stage for stage, n in counts.items() if n["changed"]}


@pytest.mark.torch
def test_plan_run__reruns_exactly_what_a_changed_setting_touches(survey, monkeypatch) -> None:
    run(toy.make_config(survey), serial=True, observers=[])
    every = {"fit", "psf", "metrics"}
    assert touched(survey) == set()
    assert touched(survey, metrics={"grid": 3}) == {"metrics"}
    assert touched(survey, psf={"size": 9}) == {"psf"}
    assert touched(survey, psf={"oversampling": 2}) == {"psf"}
    assert touched(survey, checks={"grid": 2}) == every
    assert touched(survey, model={"settings": {"min_stars": 2}}) == every
    assert touched(survey, limits={"unit_timeout": 10}) == set()
    monkeypatch.setitem(toy.INSTRUMENT["instrument"]["detector"], "rows", 310)
    toy.write_instrument(survey)
    assert touched(survey) == every
