from __future__ import annotations

import pytest
import toy

from psfscale.arrays import UnitState
from psfscale.errors import ConfigError, StoreError
from psfscale.pipeline import plan_run, run
from psfscale.pipeline.ledger.marker import Marker
from psfscale.pipeline.plan import Frontier, Todo, Unit, remaining

DONE, FAILED, BLOCKED = UnitState.DONE, UnitState.QUARANTINED, UnitState.BLOCKED


def unit(stage: str, exposure: int, *, fingerprint: str = "now") -> Unit:
    needs = () if stage == "fit" else (("fit", exposure),)
    return Unit(
        stage=stage,
        exposure=exposure,
        exposure_id=f"exp-{exposure}",
        fingerprint=fingerprint,
        needs=needs,
    )


def marker(stage: str, exposure: int, *, fingerprint: str = "now", states=(DONE, DONE)) -> Marker:
    return Marker(
        stage=stage,
        exposure=exposure,
        exposure_id=f"exp-{exposure}",
        fingerprint=fingerprint,
        states=tuple(int(s) for s in states),
    )


def reasons(wanted, markers, *, retry_failed=False) -> dict:
    known = {m.key: m for m in markers}
    return {t.unit.key: t.why for t in remaining(wanted, known, retry_failed=retry_failed)}


WANTED = [unit("fit", 0), unit("psf", 0), unit("metrics", 0)]


def test_remaining__is_what_has_no_marker() -> None:
    assert reasons(WANTED, []) == {u.key: "missing" for u in WANTED}
    assert reasons(WANTED, [marker("fit", 0)]) == {
        ("psf", 0): "missing",
        ("metrics", 0): "missing",
    }
    assert not reasons(WANTED, [marker(u.stage, 0) for u in WANTED])


def test_remaining__holds_changed_units_alone() -> None:
    markers = [marker("fit", 0), marker("psf", 0), marker("metrics", 0, fingerprint="then")]
    assert reasons(WANTED, markers) == {("metrics", 0): "changed"}


def test_remaining__holds_all_downstream_of_a_missing_unit() -> None:
    assert reasons(WANTED, [marker("psf", 0), marker("metrics", 0)]) == {
        ("fit", 0): "missing",
        ("psf", 0): "changed",
        ("metrics", 0): "changed",
    }


def test_remaining__tries_failed_ccds_again_only_when_asked() -> None:
    markers = [
        marker("fit", 0, states=(DONE, FAILED)),
        marker("psf", 0, states=(DONE, BLOCKED)),
        marker("metrics", 0, states=(DONE, BLOCKED)),
    ]
    assert not reasons(WANTED, markers)
    known = {m.key: m for m in markers}
    todo = remaining(WANTED, known, retry_failed=True)
    assert [(t.unit.stage, t.why) for t in todo] == [
        ("fit", "failed"),
        ("psf", "failed"),
        ("metrics", "failed"),
    ]
    assert todo[1].keep == (DONE, BLOCKED)


def test_frontier__frees_a_unit_when_its_own_needs_are_done_and_no_later() -> None:
    units = [unit(s, e) for e in (0, 1) for s in ("fit", "psf", "metrics")]
    frontier = Frontier(Todo(unit=u, why="missing") for u in units)
    assert frontier.take().unit.key == ("fit", 0)
    assert frontier.take().unit.key == ("fit", 1)
    assert frontier.take() is None
    frontier.finish(("fit", 1))
    assert frontier.take().unit.key == ("psf", 1)
    frontier.give_back(("psf", 1))
    frontier.finish(("fit", 0))
    assert [frontier.take().unit.key for _ in range(4)] == [
        ("psf", 0),
        ("metrics", 0),
        ("psf", 1),
        ("metrics", 1),
    ]
    assert len(frontier) == 4


def test_frontier__does_not_wait_for_units_done_before() -> None:
    frontier = Frontier([Todo(unit=unit("metrics", 0), why="changed")])
    assert frontier.take().unit.key == ("metrics", 0)


def test_plan_run__is_deterministic_and_writes_nothing(survey) -> None:
    config = toy.make_config(survey)
    plan = plan_run(config)
    assert plan == plan_run(config)
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
    assert {u.exposure for u in plan.wanted} == {0}
    assert "1 exposures are not wholly ingested" in str(plan)


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
