"""Jobs of a Slurm cluster: which are alive, how one ended, and replacing those that are gone."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

ANSWER_WITHIN = 30.0
"""Seconds in which squeue answers; a loaded controller takes several."""
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT")
RUNNING = ("RUNNING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT")
ENDED_BY_SITE = (
    "CANCELLED",
    "PREEMPTED",
    "TIMEOUT",
    "NODE_FAIL",
    "BOOT_FAIL",
    "DEADLINE",
    "REVOKED",
)
"""States of jobs that Slurm, an operator or a lost node has ended, not the program in them."""
ENDING = "COMPLETING"

Ended = Literal["by the site", "by itself", "not known yet"]


def job_states(jobs: Iterable[str]) -> dict[str, str] | None:
    """Return the state of every job that Slurm remembers; None where it does not answer."""
    ids = sorted(set(jobs))
    if not ids:
        return {}
    command = ["squeue", "--noheader", "--states=all", "--format=%i %T", f"--jobs={','.join(ids)}"]
    try:
        done = subprocess.run(  # noqa: S603 (job ids that sbatch has printed)
            command, capture_output=True, text=True, timeout=ANSWER_WITHIN, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode and "Invalid job id" in done.stderr:
        return {}  # of a single job, forgotten some minutes after its end
    if done.returncode:
        return None
    lines = (line.split() for line in done.stdout.splitlines())
    return {words[0]: words[1] for words in lines if len(words) == 2}


def how_ended(job: str | None) -> Ended:
    """Say who ended the worker of a job: Slurm, or the worker itself, whose job still runs."""
    if job is None:
        return "by itself"
    states = job_states([job])
    if states is None or states.get(job) == ENDING:
        return "not known yet"
    state = states.get(job, "")
    return "by the site" if state in (*ENDED_BY_SITE, *WAITING) else "by itself"


def replace_lost_jobs(cluster: Any, n_wanted: int, connected: Collection[Any]) -> None:
    """Submit jobs in place of those that are neither in the queue nor connected.

    Dask notices a worker that leaves, and submits none in its place; a job that ends before its
    worker has connected it does not notice at all.

    Parameters
    ----------
    cluster : a `dask_jobqueue.SLURMCluster`
    n_wanted : jobs, each of one worker
    connected : names of the workers that the scheduler lists
    """
    jobs = {name: job.job_id for name, job in dict(cluster.workers).items()}
    absent = {name: job for name, job in jobs.items() if name not in connected and job is not None}
    states = job_states(absent.values())
    if states is None:
        return
    for name, job in absent.items():
        if states.get(job) not in (*WAITING, *RUNNING, ENDING):
            cluster.worker_spec.pop(name, None)
    cluster.scale(n_wanted)
