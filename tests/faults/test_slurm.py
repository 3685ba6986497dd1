"""Runs on a real Slurm of two nodes, started for the tests on loopback."""

from __future__ import annotations

import subprocess
import time

import pytest
import slurm_site
import toy

from psfscale.pipeline import run, status
from psfscale.pipeline.events import UnitDied, UnitFinished
from psfscale.pipeline.workers import slurm
from psfscale.pipeline.workers.profiles import SlurmProfile

pytest.importorskip("dask_jobqueue")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(slurm_site.missing()), reason=slurm_site.missing() or "here"),
]


@pytest.fixture
def site(survey, monkeypatch):
    """A toy survey on a site whose Slurm commands reach the daemons of this test."""
    with slurm_site.slurm_site(survey / "site") as config:
        monkeypatch.setenv("SLURM_CONF", str(config))
        monkeypatch.chdir(survey)
        yield survey


def profile(**changes) -> SlurmProfile:
    content = {"kind": "slurm", "workers": 2, "memory": "2GB", "walltime": "00:30:00"}
    content |= {"lifetime": "20m", "interface": "lo", "patience": 120, "log_directory": "logs"}
    return SlurmProfile.model_validate(content | changes)


def jobs(*options: str) -> list[str]:
    command = ["squeue", "--noheader", "--format=%i", *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_run_on_slurm__whose_job_is_cancelled_blames_no_unit_and_fills_the_place(
    site, monkeypatch
) -> None:
    monkeypatch.setattr(slurm, "ASK_EVERY", 2.0)
    seen, cancelled, later = [], [], set()

    def cancel_one(event) -> None:
        seen.append(event)
        if isinstance(event, UnitFinished):
            running = jobs("--states=RUNNING")
            if not cancelled and len(running) == 2:
                cancelled.append(running[0])
                subprocess.run(["scancel", running[0]], check=True)
            elif cancelled:
                later.update(jobs())

    config = toy.make_config(site, model={"settings": {"sleep": 2.0}})
    for _ in range(6):
        toy.append_exposure(site / "survey.zarr")
    summary = run(config, cluster=profile(), observers=[cancel_one])
    assert (summary.exit_code, summary.n_left) == (0, 0)
    assert cancelled, "no job was running beside another"
    assert later - {*cancelled}, "no job came in its place"
    assert not [e for e in seen if isinstance(e, UnitDied)]
    assert status(config.output).deaths == {}
    assert (site / "logs").is_dir()
    quiet = config.model_copy(update={"output": site / "quiet.zarr"})
    run(quiet, serial=True, observers=[])
    toy.require_same_arrays(config.output, quiet.output)
    end = time.monotonic() + 30
    while jobs() and time.monotonic() < end:
        time.sleep(0.2)
    assert jobs() == [], "jobs outlive their run"


def test_job__that_ended_is_told_from_a_worker_that_died_in_it(site) -> None:
    submit = ["sbatch", "--parsable", "--output=/dev/null", "--wrap", "sleep 300"]
    first = subprocess.run(submit, capture_output=True, text=True, check=True).stdout.strip()
    wait_for(first, "RUNNING")
    assert slurm.how_ended(first) == "by itself", "its job still runs"
    subprocess.run(["scancel", first], check=True)
    end = time.monotonic() + 60
    while slurm.how_ended(first) == "not known yet" and time.monotonic() < end:
        time.sleep(0.2)
    assert slurm.how_ended(first) == "by the site"
    assert slurm.how_ended("999999") == "by itself", "nobody remembers such a job"
    assert slurm.how_ended(None) == "by itself"


def wait_for(job: str, state: str) -> None:
    end = time.monotonic() + 60
    while (slurm.job_states([job]) or {}).get(job) != state and time.monotonic() < end:
        time.sleep(0.2)
    assert (slurm.job_states([job]) or {})[job] == state


def test_lost_controller__leaves_the_question_open(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "none.conf"))
    assert slurm.job_states(["1"]) is None
    assert slurm.how_ended("1") == "not known yet"
