"""A batch system that takes no jobs, or whose jobs never become workers: commands of a fake one."""

from __future__ import annotations

import os

import pytest
import toy
import yaml
from terminal import Terminal, wait_for

from psfscale.errors import RunError
from psfscale.pipeline import run
from psfscale.pipeline.events import Notice
from psfscale.pipeline.workers import cluster, slurm
from psfscale.pipeline.workers.profiles import SlurmProfile

pytest.importorskip("dask_jobqueue")
pytestmark = pytest.mark.slow
PROFILE = {"kind": "slurm", "workers": 3, "memory": "1GB", "interface": "lo"}
REFUSE = "echo sbatch: error: Batch job submission failed: Invalid account >&2; exit 1"
ACCEPT = "echo Submitted batch job $(wc -l < {calls})"


@pytest.fixture
def site(survey, monkeypatch):
    """A function that puts commands of a batch system on the path, and what they were asked."""
    folder, calls = survey / "bin", survey / "calls"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.chdir(survey)

    def make(sbatch: str, squeue: str = ":") -> None:
        scripts = {"sbatch": sbatch.format(calls=calls), "squeue": squeue, "scancel": ":"}
        for name, script in scripts.items():
            path = folder / name
            note = f"echo {name} >> {calls}\n"
            path.write_text(f"#!/bin/sh\n{note}{script}\n")
            path.chmod(0o755)

    make.asked = lambda: calls.read_text().split() if calls.exists() else []
    return make


def test_refused_jobs__end_the_run_in_the_words_of_the_batch_system(site, survey) -> None:
    site(REFUSE)
    (survey / "profile.yaml").write_text(yaml.safe_dump(PROFILE))
    content = {"survey": "survey.zarr", "instrument": "toy.yaml", "output": "run.zarr"}
    (survey / "run.yaml").write_text(yaml.safe_dump(content))
    command = ("-m", "psfscale.cli", "run", "run.yaml", "--cluster", "profile.yaml")
    terminal = Terminal(*command, cwd=survey)
    assert terminal.end() == 2, terminal.said
    said = " ".join(terminal.said.split())
    words = "sbatch: error: Batch job submission failed: Invalid account"
    assert f"psfscale: Slurm refuses the job: {words}; put right" in said
    assert "Traceback" not in said
    assert site.asked() == ["sbatch"], "asked again and again"


def test_interruption__while_no_job_starts_is_one(site, survey) -> None:
    site(ACCEPT, squeue="for i in 1 2 3 4 5 6 7 8 9; do echo $i PENDING; done")
    (survey / "profile.yaml").write_text(yaml.safe_dump(PROFILE))
    content = {"survey": "survey.zarr", "instrument": "toy.yaml", "output": "run.zarr"}
    (survey / "run.yaml").write_text(yaml.safe_dump(content))
    command = ("-m", "psfscale.cli", "run", "run.yaml", "--cluster", "profile.yaml")
    terminal = Terminal(*command, cwd=survey)
    wait_for(lambda: site.asked().count("sbatch") == 3)
    terminal.press_ctrl_c()
    assert terminal.end() == 130, terminal.said
    assert "Traceback" not in terminal.said
    assert "scancel" in site.asked(), "jobs are left in the queue"


def test_jobs_that_end_without_a_worker__end_the_run_early(site, survey, monkeypatch) -> None:
    site(ACCEPT, squeue="exit 0")
    monkeypatch.setattr(slurm, "ASK_EVERY", 0.2)
    profile = SlurmProfile.model_validate({**PROFILE, "log_directory": "logs", "patience": 600})
    with pytest.raises(RunError, match=r"jobs ended and no worker came.*\(in logs\)"):
        run(toy.make_config(survey), cluster=profile, observers=[])


def test_long_wait__for_a_first_worker_is_told_with_its_end(site, survey, monkeypatch) -> None:
    site(ACCEPT, squeue="for i in 1 2 3 4 5 6 7 8 9; do echo $i PENDING; done")
    monkeypatch.setattr(cluster, "SAID_AFTER", 0.5)
    profile, told = SlurmProfile.model_validate({**PROFILE, "patience": 3}), []
    with pytest.raises(RunError, match="no worker came within 3 s"):
        run(toy.make_config(survey), cluster=profile, observers=[told.append])
    (notice,) = [event.text for event in told if isinstance(event, Notice)]
    assert "the run gives up after 3 s (patience in the cluster profile)" in notice


class Job:
    """What Dask keeps of a job."""

    def __init__(self, job_id: str | None, refused: str | None = None) -> None:
        self.job_id, self.refused = job_id, refused


class Cluster:
    """What is asked of Dask's cluster of jobs."""

    def __init__(self, **workers: Job) -> None:
        self.workers, self.worker_spec, self.scaled = workers, dict.fromkeys(workers), []

    def scale(self, n: int) -> None:
        self.scaled.append(n)


def test_some_refused_jobs__are_told_once_and_asked_for_again(monkeypatch) -> None:
    monkeypatch.setattr(slurm, "job_states", lambda jobs: dict.fromkeys(jobs, "RUNNING"))
    told, dask = [], Cluster(a=Job("1"), b=Job(None, "QOSMaxSubmitJobPerUserLimit"))
    jobs = slurm.SlurmJobs(SlurmProfile.model_validate(PROFILE), dask, told.append)
    for _ in range(2):
        dask.worker_spec["b"] = None
        jobs.fill(["a"])
        assert list(dask.worker_spec) == ["a"], "the place of a refused job stays taken"
    assert dask.scaled == [3, 3]
    (sentence,) = told
    assert "refuses 1 of 3 jobs: QOSMaxSubmitJobPerUserLimit; the run goes on" in sentence
