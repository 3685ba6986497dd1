from __future__ import annotations

import json
import subprocess
import sys

import pytest
import toy
import yaml

from psfscale.pipeline import load_profile, open_run, run
from psfscale.pipeline.profiles import LocalProfile

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
    yield path
    for process in reversed(started):
        process.terminate()
        process.wait(timeout=30)


def test_running_scheduler__is_joined_by_its_file_and_by_its_address(
    survey, scheduler_file
) -> None:
    profile = survey / "by-file.yaml"
    profile.write_text(yaml.safe_dump({"kind": "scheduler-file", "path": "scheduler.json"}))
    while not (scheduler_file.exists() and scheduler_file.read_text()):
        pass
    config = toy.make_config(survey)
    assert run(config, cluster=load_profile(profile), observers=[]).exit_code == 0
    address = json.loads(scheduler_file.read_text())["address"]
    profile.write_text(yaml.safe_dump({"kind": "address", "address": address}))
    again = toy.make_config(survey, metrics={"grid": 2})
    summary = run(again, cluster=load_profile(profile), observers=[])
    assert (summary.exit_code, summary.n_units) == (0, 4)


def test_arrays__do_not_depend_on_the_number_of_workers(survey) -> None:
    for workers in (1, 2):
        config = toy.make_config(survey, output=survey / f"run-{workers}.zarr")
        run(config, cluster=LocalProfile(workers=workers), observers=[])
    run(toy.make_config(survey), serial=True, observers=[])
    toy.require_same_arrays(survey / "run.zarr", survey / "run-1.zarr")
    toy.require_same_arrays(survey / "run.zarr", survey / "run-2.zarr")
    assert (open_run(survey / "run-2.zarr")["ccds/state"] == 1).all()
