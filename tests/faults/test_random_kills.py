"""Twenty kills at random moments of driver, worker and scheduler; then the run is as if none."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import toy
import yaml

from psfscale.pipeline import plan_run, run, verify
from psfscale.pipeline.ledger.lease import read_holder
from psfscale.pipeline.ledger.table import read_known

DRIVE = Path(__file__).parent / "drive.py"
N_KILLS, N_EXPOSURES = 20, 30
VICTIMS = ["driver"] * 3 + ["scheduler"] * 2 + ["worker-1", "worker-2"] * 5
CHANGES = {"model": {"settings": {"sleep": 0.3}}}
pytestmark = pytest.mark.slow


class Cluster:
    """A scheduler and two workers, each a process that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "scheduler.json"
        self.log = (folder / "log").open("w")
        self.members: dict[str, subprocess.Popen] = {}
        self.mend()

    def mend(self) -> None:
        if not self._lives("scheduler"):
            for name in list(self.members):
                self.kill(name)
            self.file.unlink(missing_ok=True)
            loopback = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
            self._start("scheduler", "scheduler", "--port", "0", *loopback)
            while not (self.file.exists() and self.file.read_text()):
                time.sleep(0.05)
        for name in ("worker-1", "worker-2"):
            if not self._lives(name):
                options = ["--nthreads", "1", "--no-dashboard", "--no-nanny"]
                self._start(name, "worker", *options, "--local-directory", str(self.folder))

    def kill(self, name: str) -> None:
        process = self.members.pop(name)
        process.kill()
        process.wait()

    def _start(self, name: str, what: str, *options: str) -> None:
        command = [sys.executable, "-m", "dask", what, "--scheduler-file", str(self.file), *options]
        self.members[name] = subprocess.Popen(command, stdout=self.log, stderr=self.log)

    def _lives(self, name: str) -> bool:
        return name in self.members and self.members[name].poll() is None

    def close(self) -> None:
        for name in list(self.members):
            self.kill(name)
        self.log.close()


@pytest.fixture
def cluster(survey):
    for exposure in range(4, N_EXPOSURES):
        assert toy.append_exposure(survey / "survey.zarr") == exposure
    profile = {"kind": "scheduler-file", "path": str(survey / "scheduler.json"), "patience": 20}
    (survey / "profile.yaml").write_text(yaml.safe_dump(profile))
    started = Cluster(survey)
    yield started
    started.close()


def start_driver(folder: Path) -> subprocess.Popen:
    command = [sys.executable, str(DRIVE), str(folder), "profile", json.dumps(CHANGES)]
    with (folder / "said").open("a") as said:
        return subprocess.Popen(command, stdout=said, stderr=said)


def wait_for_progress(path: Path) -> None:
    """Return when a unit more is done, or nothing has come for a while."""
    started, end = n_done(path), time.monotonic() + 5
    while n_done(path) == started and time.monotonic() < end:
        time.sleep(0.05)


def n_done(path: Path) -> int:
    if not (path / "zarr.json").exists():
        return 0
    return int((read_known(path, ["fit", "psf", "metrics"]).fingerprints > 0).sum())


def test_run__survives_twenty_kills_at_random_moments(survey, cluster) -> None:
    rng = random.Random(1)
    config = toy.make_config(survey, **CHANGES)
    victims = [rng.choice(VICTIMS) for _ in range(N_KILLS)]
    assert set(victims) == set(VICTIMS)
    driver = start_driver(survey)
    for victim in victims:
        wait_for_progress(config.output)
        time.sleep(rng.uniform(0, 0.6))
        if victim == "driver":
            driver.kill()
            driver.wait()
        elif victim in cluster.members:
            cluster.kill(victim)
        cluster.mend()
        if driver.poll() is None:
            continue
        driver = start_driver(survey)
    driver.wait(timeout=120)
    # a unit whose worker was killed three times by chance is quarantined; it is innocent
    assert run(config, serial=True, retry_failed=True, observers=[]).exit_code == 0
    assert not plan_run(config).n_todo
    assert verify(config.output).ok
    assert read_holder(config.output) is None
    quiet = toy.make_config(survey, output=survey / "quiet.zarr")
    assert run(quiet, serial=True, observers=[]).exit_code == 0
    disturbed, truth = toy.run_arrays(config.output), toy.run_arrays(quiet.output)
    for name in truth:
        if not name.startswith("units/"):
            np.testing.assert_array_equal(disturbed[name], truth[name], err_msg=name)


def test_second_driver__is_refused_while_the_first_goes_on(survey) -> None:
    changes = json.dumps({"model": {"settings": {"sleep": 5.0}}})
    command = [sys.executable, str(DRIVE), str(survey), "0", changes]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lease, end = survey / "run.zarr/.psfscale/lease.json", time.monotonic() + 60
    while not lease.exists() and time.monotonic() < end:
        time.sleep(0.02)
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    still_running = first.poll() is None
    first.terminate()
    assert first.wait(timeout=60) == 143
    assert still_running
    assert second.returncode == 1
    held = f"held by another driver (host {os.uname().nodename}, process {first.pid})"
    assert held in second.stderr
