from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
import toy
import yaml
from distributed.core import Status

from psfscale.errors import RunError
from psfscale.pipeline import load_profile, open_run, run, status
from psfscale.pipeline.events import ClusterLost, Event, UnitDied, UnitFinished
from psfscale.pipeline.ledger.marker import read_markers
from psfscale.pipeline.units.task import Task
from psfscale.pipeline.workers import cluster
from psfscale.pipeline.workers.executor import ExecutorLostError
from psfscale.pipeline.workers.profiles import LocalProfile

pytestmark = pytest.mark.slow


@pytest.fixture
def scheduler_file(survey):
    """A scheduler and one worker that somebody else started."""
    path = survey / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    common = ["--scheduler-file", str(path)]
    loopback = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
    worker = ["--nthreads", "1", "--no-dashboard", "--local-directory", str(survey)]
    with (survey / "log").open("w") as log:
        started = [
            subprocess.Popen([*dask, "scheduler", "--port", "0", *common, *loopback], stderr=log),
            subprocess.Popen([*dask, "worker", *common, *worker], stderr=log),
        ]
    while not (path.exists() and path.read_text()):
        time.sleep(0.05)
    yield path, started[0]
    for process in reversed(started):
        process.terminate()
        process.wait(timeout=30)


def test_running_scheduler__is_joined_by_its_file_and_by_its_address(
    survey, scheduler_file
) -> None:
    profile = survey / "by-file.yaml"
    profile.write_text(yaml.safe_dump({"kind": "scheduler-file", "path": "scheduler.json"}))
    path, _ = scheduler_file
    config = toy.make_config(survey)
    assert run(config, cluster=load_profile(profile), observers=[]).exit_code == 0
    address = json.loads(path.read_text())["address"]
    profile.write_text(yaml.safe_dump({"kind": "address", "address": address}))
    again = toy.make_config(survey, metrics={"grid": 2})
    summary = run(again, cluster=load_profile(profile), observers=[])
    assert (summary.exit_code, summary.n_units) == (0, 4)


def test_lost_scheduler__ends_the_run_with_a_reason_and_the_same_command_resumes(
    survey, scheduler_file
) -> None:
    path, scheduler = scheduler_file
    profile = survey / "by-file.yaml"
    content = {"kind": "scheduler-file", "path": str(path), "patience": 20}
    profile.write_text(yaml.safe_dump(content))
    config = toy.make_config(survey)

    def kill_after_three(event) -> None:
        finished.append(event)
        if sum(isinstance(e, UnitFinished) for e in finished) == 3:
            scheduler.kill()

    finished: list[Event] = []
    with pytest.raises(RunError, match="no worker came within 20 s"):
        run(config, cluster=load_profile(profile), observers=[kill_after_three])
    assert any(isinstance(event, ClusterLost) for event in finished)
    assert status(config.output).driver == "none"
    summary = run(config, serial=True, observers=[])
    assert (summary.exit_code, summary.n_skipped >= 3) == (0, True)


def test_arrays__do_not_depend_on_the_number_of_workers(survey) -> None:
    for workers in (1, 2):
        config = toy.make_config(survey, output=survey / f"run-{workers}.zarr")
        run(config, cluster=LocalProfile(workers=workers), observers=[])
    run(toy.make_config(survey), serial=True, observers=[])
    toy.require_same_arrays(survey / "run.zarr", survey / "run-1.zarr")
    toy.require_same_arrays(survey / "run.zarr", survey / "run-2.zarr")
    assert (open_run(survey / "run-2.zarr")["ccds/state"].sel(stage=list(toy.STAGES)) == 1).all()


def test_workers_that_nobody_starts_again__are_replaced_and_the_run_goes_on(
    survey, monkeypatch
) -> None:
    """A nanny that is closing does not replace its worker; the scheduler may list it on."""
    made, events = [], []

    class Watched(cluster.DaskExecutor):
        def __init__(self, profile, **rest) -> None:
            super().__init__(profile, **rest)
            made.append(self)

    def lose_all_workers(event) -> None:
        events.append(event)
        if isinstance(event, UnitFinished) and not lost:
            lost.extend(made[0]._supply.cluster.workers.values())
            for nanny in lost:
                nanny.status = Status.closing_gracefully
            made[0]._supply.kill()

    lost: list = []
    monkeypatch.setattr(cluster, "DaskExecutor", Watched)
    config = toy.make_config(survey, model={"settings": {"sleep": 0.5}})
    summary = run(config, cluster=LocalProfile(workers=2), observers=[lose_all_workers])
    assert (summary.exit_code, bool(lost)) == (0, True)
    quiet = config.model_copy(update={"output": survey / "quiet.zarr"})
    run(quiet, serial=True, observers=[])
    toy.require_same_arrays(config.output, quiet.output)


@pytest.mark.parametrize("how", ["die", "hang"])
def test_worker_that_fails_as_it_starts__costs_nothing(survey, monkeypatch, how) -> None:
    monkeypatch.setenv("PSFSCALE_TEST_START", f"{how}:{survey / 'started'}")
    config, events = toy.make_config(survey), []
    summary = run(config, cluster=LocalProfile(workers=2), observers=[events.append])
    assert (survey / "started").exists(), "no worker failed"
    assert (summary.exit_code, summary.n_left) == (0, 0)
    assert not [e for e in events if isinstance(e, ClusterLost | UnitDied)]


def test_workers_that_all_end_as_they_start__end_the_run_in_a_sentence(survey, monkeypatch) -> None:
    monkeypatch.setenv("PSFSCALE_TEST_START", "die:")
    with pytest.raises(RunError, match="worker processes ended as they started"):
        run(toy.make_config(survey), cluster=LocalProfile(workers=2), observers=[])


SCRIPT = """
import sys
from pathlib import Path
import toy
from psfscale.pipeline import run
from psfscale.pipeline.workers.profiles import LocalProfile
run(toy.make_config(Path(sys.argv[1])), cluster=LocalProfile(workers=1), observers=[])
"""


def test_script_without_the_main_guard__is_told_what_is_missing(survey) -> None:
    script = survey / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(survey)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = done.stderr.splitlines()[-1]
    assert told.startswith("psfscale.errors.RunError: all of 3 worker processes ended"), done.stderr
    assert f'{script}, line 7, starts this outside of `if __name__ == "__main__":`' in told


class Finished:
    """Dask's hold on a parcel that ended on a worker which died before it could say how."""

    status = "finished"


def test_restored_galaxies__do_not_depend_on_the_number_of_workers(survey) -> None:
    restore = {"at_galaxies": True, "learn_exposures": 3, "settings": {"learnt": {"n_rounds": 1}}}
    serial = toy.make_config(survey, restore=restore)
    assert run(serial, serial=True, observers=[]).exit_code == 0
    spread = toy.make_config(survey, restore=restore, output=survey / "spread.zarr")
    assert run(spread, cluster=LocalProfile(workers=2), observers=[]).exit_code == 0
    toy.require_same_arrays(serial.output, spread.output)


def test_finished_parcel__of_which_nobody_tells_is_known_by_its_markers(
    survey, monkeypatch
) -> None:
    monkeypatch.setattr(cluster, "TOLD_WITHIN", 0.05)
    toy.spoil_ccd(survey / "survey.zarr", 1, 0, how="few")  # its marker stays a file
    config = toy.make_config(survey)
    run(config, serial=True, observers=[])
    (marker,) = read_markers(config.output).values()
    same = {"stage": marker.stage, "exposure": 1, "attempt": 1, "lease": ""}
    known = Task(run=str(config.output), fingerprint=marker.fingerprint, **same)
    executor = object.__new__(cluster.DaskExecutor)
    executor._sent = {7: cluster._Sent((known,), Finished())}
    assert executor._sift() == []
    time.sleep(0.06)
    (outcome,) = executor._sift()
    assert (outcome.counts["n_failed"], executor._sent) == (1, {})
    assert executor._hear(7, [{"counts": {}}]) == [], "told too late"
    other = Task(run=str(config.output), fingerprint="of other settings", **same)
    executor._sent = {8: cluster._Sent((known, other), Finished(), finished=1.0)}
    with pytest.raises(ExecutorLostError, match="nobody tells what a finished unit came to"):
        executor._sift()


class Errored:
    """Dask's hold on a parcel that no worker could read."""

    status = "error"

    def exception(self):
        return ModuleNotFoundError("No module named 'psfscale'")


def test_worker_that_cannot_read_units__stops_the_run_rather_than_quarantine_all() -> None:
    task = Task(run="", stage="fit", exposure=0, attempt=1, lease="", fingerprint="")
    executor = object.__new__(cluster.DaskExecutor)
    (outcome,) = executor._untold(cluster._Sent((task,), Errored()))
    assert "cannot run units (ModuleNotFoundError: No module named" in outcome.hopeless
