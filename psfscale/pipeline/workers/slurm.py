"""Jobs of a Slurm cluster: which are alive, how one ended, and replacing those that are gone."""

from __future__ import annotations

import math
import subprocess
import time
from typing import TYPE_CHECKING, Any, Literal

from distributed import Status

from psfscale.errors import RunError
from psfscale.pipeline.workers.local import LEAST_TRIES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from psfscale.pipeline.workers.profiles import SlurmProfile

ANSWER_WITHIN = 30.0
"""Seconds in which squeue answers; a loaded controller takes several."""
ASK_EVERY = 15.0
"""Seconds between two questions which jobs are in the queue."""
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


class SlurmJobs:
    """A scheduler in this process, and jobs of one worker each.

    Dask notices a worker that leaves, and submits none in its place; a job that ends before its
    worker has connected, or that Slurm refuses, it does not notice at all.

    Parameters
    ----------
    profile : how many jobs, and what each asks for
    cluster : a `dask_jobqueue.SLURMCluster` of `refusable` jobs, none of them submitted yet
    say : takes sentences for whoever started the run
    """

    def __init__(self, profile: SlurmProfile, cluster: Any, say: Callable[[str], None]) -> None:
        self.n_wanted, self._profile, self.cluster = profile.workers, profile, cluster
        self._say = say
        self._n_connected = self._n_ended = 0
        self._accepted = self._said = False
        self._asked = -math.inf
        self._jobs: dict[Any, str] = {}

    def fill(self, connected: Collection[Any]) -> None:
        """Submit jobs that are missing, in place of those neither in the queue nor connected.

        Parameters
        ----------
        connected : names of the workers that the scheduler lists

        Raises
        ------
        RunError
            Slurm refuses the jobs, or all jobs end before their workers connect.
        """
        self._n_connected = max(self._n_connected, len(connected))
        jobs = self._look()
        self._accepted |= bool(self._jobs)
        self._take_refusals(jobs)
        if time.monotonic() - self._asked > ASK_EVERY:
            self._asked = time.monotonic()
            self._give_up({n: j.job_id for n, j in jobs.items() if n not in connected and j.job_id})
            self._require_a_worker()
        self.cluster.scale(self.n_wanted if self._accepted else 1)

    def kill(self, *, starting: bool = False) -> None:
        """Leave the jobs to the closing of the cluster, which cancels them."""

    def has_processes(self) -> bool:
        """Whether there may be workers; only the queue knows."""
        return True

    def who_ended(self, worker: Any) -> Ended:
        """Say who ended a worker that is gone, by its name."""
        self._look()
        return how_ended(self._jobs.get(worker))

    def _look(self) -> dict[Any, Any]:
        """Return the jobs that Dask has by worker; their numbers are kept when it forgets them."""
        jobs = dict(self.cluster.workers)
        self._jobs |= {name: job.job_id for name, job in jobs.items() if job.job_id}
        return jobs

    def _take_refusals(self, jobs: Mapping[Any, Any]) -> None:
        """Give the places of refused jobs to later ones; without any job there is no run."""
        words = [job.refused for job in jobs.values() if job.refused]
        for name, job in jobs.items():
            if job.refused:
                self.cluster.worker_spec.pop(name, None)
        if not words:
            return
        if not self._accepted:
            msg = (
                f"Slurm refuses the job: {words[0]}; put right what it names in the cluster "
                "profile, then run the same command again"
            )
            raise RunError(msg)
        if not self._said:
            self._said = True
            self._say(
                f"Slurm refuses {len(words)} of {self.n_wanted} jobs: {words[0]}; the run goes on "
                "with those it takes, and asks again"
            )

    def _give_up(self, jobs: Mapping[Any, str]) -> None:
        """Take jobs out of the cluster, by worker, that the queue does not hold any more."""
        states = job_states(jobs.values())
        if states is None:
            return
        for name, job in jobs.items():
            alive = states.get(job) in (*WAITING, *RUNNING, ENDING)
            if not alive and self.cluster.worker_spec.pop(name, None) is not None:
                self._n_ended += 1

    def _require_a_worker(self) -> None:
        if self._n_connected or self._n_ended < max(LEAST_TRIES, self.n_wanted):
            return
        folder = self._profile.log_directory
        where = f"in {folder}" if folder else "slurm-*.out, in the working directory"
        msg = (
            f"{self._n_ended} jobs ended and no worker came: their output says why ({where}); "
            "check prologue, interface and memory in the cluster profile"
        )
        raise RunError(msg)


def refusable(job_class: Any) -> Any:
    """Return a class of jobs of dask-jobqueue that keep the words of a refusal in `refused`."""

    class Refusable(job_class):  # type: ignore[misc]
        refused: str | None = None

        async def start(self) -> None:
            try:
                await super().start()
            except (RuntimeError, ValueError, OSError) as error:
                self.refused = _words(error)
                self.status = Status.running  # to Dask a job like any other, until it is replaced

        async def close(self) -> None:
            await super().close()
            self.status = Status.closed  # which dask-jobqueue leaves out, and Dask asserts

    return Refusable


def _words(error: Exception) -> str:
    """Return what the batch system itself says in an error of dask-jobqueue, in one line."""
    text = str(error).partition("stderr:\n")[2] or str(error)
    return " ".join(text.split()) or "it gives no reason"
