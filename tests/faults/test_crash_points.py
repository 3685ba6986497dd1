"""A run killed before each single change that it makes on the disk, one after the other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import toy
from mortal import Killed, Mortal

from psfscale.pipeline import plan_run, run, status, verify
from psfscale.pipeline.events import UnitSubmitted
from psfscale.pipeline.ledger.marker import read_markers
from psfscale.pipeline.runs.context import build_context
from psfscale.pipeline.runs.store import create_run_store

pytestmark = pytest.mark.slow


@pytest.fixture
def mortal(monkeypatch):
    return Mortal(monkeypatch)


def die_at(config, mortal: Mortal, moment: int, **again: bool) -> None:
    mortal.left, mortal.changes = moment, []
    with pytest.raises(Killed):
        run(config, serial=True, observers=[], **again)
    mortal.left = None
    # a dead process gives no lease back, and its number may be ours
    (config.output / ".psfscale/lease.json").unlink(missing_ok=True)


def resume(config, **again: bool) -> set:
    """Run to the end; returns the units that were run."""
    seen: list = []
    assert run(config, serial=True, observers=[seen.append], **again).exit_code == 0
    return {(e.stage, e.exposure) for e in seen if isinstance(e, UnitSubmitted)}


def test_run__killed_at_any_moment_ends_as_if_it_had_not_been(survey, mortal) -> None:
    shutil.rmtree(survey / "survey.zarr")
    toy.make_survey(survey / "survey.zarr", 1)
    create_run_store(build_context(toy.make_config(survey, output=survey / "fresh.zarr")))
    quiet = toy.make_config(survey, output=survey / "quiet.zarr")
    mortal.changes = []
    run(quiet, serial=True, observers=[])
    story = mortal.changes
    for moment in moments(story):
        config = toy.make_config(survey, output=survey / f"run-{moment}.zarr")
        shutil.copytree(survey / "fresh.zarr", config.output)
        die_at(config, mortal, moment)
        left = {item.unit.key for item in plan_run(config).todo}
        done = {(stage, 0) for stage in toy.STAGES} - left
        assert done == marked(mortal.changes)
        assert not resume(config) & done, story[moment]
        toy.require_same_arrays(config.output, quiet.output)
        assert verify(config.output).ok
        shutil.rmtree(config.output)


def moments(story: list[str]) -> list[int]:
    """All, but of many columns of the books only the first, the third and the last."""
    columns = [i for i, change in enumerate(story) if change.startswith("_set")]
    return [i for i in range(len(story)) if i not in columns[1:2] + columns[3:-1]]


def marked(changes: list[str]) -> set:
    """Units whose markers were written before the end."""
    parts = (change.partition("write_json markers/")[2].split("/") for change in changes)
    return {(p[0], 0) for p in parts if len(p) == 2}


def test_run_store__killed_in_the_making_is_not_there(survey, monkeypatch) -> None:
    def rename(*_):
        raise Killed

    config = toy.make_config(survey)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(Killed):
            run(config, serial=True, observers=[])
    assert not config.output.exists()
    assert resume(config) == {(stage, e) for stage in toy.STAGES for e in range(4)}


def test_books__killed_between_copy_and_removal_hold_each_unit_once(survey, mortal) -> None:
    config = toy.make_config(survey)
    run(toy.make_config(survey, output=survey / "quiet.zarr"), serial=True, observers=[])
    copied = mortal.changes.index("_set units/fingerprint")
    removed = [i for i, name in enumerate(mortal.changes) if name.startswith("unlink markers")]
    assert copied < min(removed)
    die_at(config, mortal, removed[2])  # two of twelve removed, ten in the books and as files
    assert len(read_markers(config.output)) == 10
    assert status(config.output).units["fit"]["done"] == 4
    assert not plan_run(config).n_todo
    assert resume(config) == set()
    assert not read_markers(config.output)
    toy.require_same_arrays(config.output, survey / "quiet.zarr")


def test_books__killed_after_copy_do_not_bring_back_what_was_struck_out(survey, mortal) -> None:
    """The removal of a marker is the last step of both: of taking in, and of striking out."""
    config = toy.make_config(survey)
    run(toy.make_config(survey, output=survey / "quiet.zarr"), serial=True, observers=[])
    removed = [i for i, name in enumerate(mortal.changes) if name.startswith("unlink markers")]
    die_at(config, mortal, removed[0])
    changed = toy.make_config(survey, metrics={"grid": 3})
    assert resume(changed) == {("metrics", exposure) for exposure in range(4)}
    other = toy.make_config(survey, output=survey / "other.zarr", metrics={"grid": 3})
    run(other, serial=True, observers=[])
    toy.require_same_arrays(config.output, other.output)


def test_retry__killed_at_any_moment_learns_nothing_anew(survey, mortal) -> None:
    shutil.rmtree(survey / "survey.zarr")
    toy.make_survey(survey / "survey.zarr", 2)
    toy.spoil_ccd(survey / "survey.zarr", 0, 1, how="nan")
    restore = {"at_galaxies": True, "settings": {"learnt": {"n_rounds": 1, "fast": True}}}
    failed = toy.make_config(survey, output=survey / "failed.zarr", restore=restore)
    assert run(failed, serial=True, observers=[]).exit_code == 1
    toy.mend_ccd(survey / "survey.zarr", 0, 1)
    quiet = toy.make_config(survey, output=survey / "quiet.zarr", restore=restore)
    shutil.copytree(failed.output, quiet.output)
    mortal.changes = []
    assert resume(quiet, retry_failed=True) == {(s, 0) for s in (*toy.STAGES, "restore")}
    for moment in range(1, len(mortal.changes), 5):
        config = toy.make_config(survey, output=survey / f"run-{moment}.zarr", restore=restore)
        shutil.copytree(failed.output, config.output)
        die_at(config, mortal, moment, retry_failed=True)
        assert {exposure for _, exposure in resume(config, retry_failed=True)} <= {0}
        toy.require_same_arrays(config.output, quiet.output)
        shutil.rmtree(config.output)
