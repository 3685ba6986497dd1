"""Units on a Dask cluster. Bulk data never passes through it: a task is a name, its result a file.

A worker writes arrays and marker; the driver learns from the scheduler only that a unit ended,
and reads the marker. Nothing relies on Dask's memory or on its retries: a worker's death comes
back at once, and the driver decides what becomes of the units it held.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import dask
import psutil
from distributed import Future, LocalCluster, Nanny, get_worker
from distributed.scheduler import KilledWorker

from psfscale.errors import RunError
from psfscale.pipeline.drive.unit import MEMORY_LIMIT, OVERDUE, Task
from psfscale.pipeline.workers.connect import client_of, hushed, make_cluster
from psfscale.pipeline.workers.dask_settings import SETTINGS
from psfscale.pipeline.workers.executor import (
    ExecutorLostError,
    Outcome,
    Parcel,
    ended_before,
    run_parcel,
)
from psfscale.pipeline.workers.profiles import ClusterProfile, SlurmProfile
from psfscale.pipeline.workers.resources import GPU, Amounts, lacking, require
from psfscale.pipeline.workers.slurm import Ended, how_ended, replace_lost_jobs
from psfscale.pipeline.workers.tuned import Tuned

CHECK_EVERY = 2.0
"""Seconds between two looks at the cluster's health."""
ANSWER_WITHIN = 30.0
"""Seconds in which a live scheduler answers."""
Work = Callable[[Parcel], list[dict[str, Any]]]
GONE_AFTER = 8.0
"""Seconds without a worker or a process that becomes one, after which a local cluster is lost."""
SITE_SAYS_WITHIN = 120.0
"""Seconds in which a batch system says how a job has ended; until then it is still ending."""
REFILL_EVERY = 15.0
"""Seconds between two looks for jobs that have gone and are to be replaced."""
TOLD_WITHIN = 10.0
"""Seconds in which word comes of what a finished parcel came to, a few bytes."""


class DaskExecutor:
    """Units on the workers of a cluster.

    A worker tells what a parcel came to over the connection that it keeps with the scheduler, and
    the scheduler passes it on: fetching results would take a message each way for every parcel.

    Parameters
    ----------
    profile : where the workers come from
    work : what a worker does with a parcel, `run_on_worker` if not given
    demands : resources that some worker must have, by the stage that wants them
    private : folder for keys that jobs on other nodes read, which only this user may enter

    Raises
    ------
    RunError
        No worker came within the profile's patience, the scheduler cannot be reached, or no worker
        has what is demanded.
    """

    def __init__(
        self,
        profile: ClusterProfile,
        *,
        work: Work | None = None,
        demands: Mapping[str, Amounts] | None = None,
        private: Path | None = None,
    ) -> None:
        self.profile, self._work, self._demands = profile, work or run_on_worker, demands or {}
        self._private = private
        self._told: queue.SimpleQueue[tuple[int, list[dict[str, Any]]]] = queue.SimpleQueue()
        self._sent: dict[int, _Sent] = {}
        self._topic = f"unit-{uuid.uuid4().hex}"
        self._numbers = count()
        self._checked = self._seen = self._process_seen = self._sifted = time.monotonic()
        self._equipped, self._resources = self._checked, dict[str, float]()
        self._filled = self._checked
        self._wanting = False
        self._stack = contextlib.ExitStack()
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise

    @property
    def window(self) -> int:
        """Units it wants to be given at a time: a few for each thread."""
        return max(self.n_workers, 1) * self.profile.units_per_thread

    def submit(self, parcels: Sequence[Parcel]) -> None:
        """Take parcels; the more at a time, the less each costs."""
        alike: dict[tuple[tuple[str, float], ...], list[Parcel]] = {}
        for parcel in parcels:
            wanted = parcel[0].resources
            self._wanting |= bool(wanted)
            found = () if lacking(dict(wanted), self._resources) else wanted
            alike.setdefault(found, []).append(parcel)
        for found, some in alike.items():
            self._send(some, dict(found))

    def _send(self, parcels: Sequence[Parcel], resources: dict[str, float]) -> None:
        """Hand parcels to workers that have these resources, else to the processors of any."""
        numbers = list(islice(self._numbers, len(parcels)))
        work = partial(_report, self._work, self._topic)
        keys = [(self._topic, number) for number in numbers]
        device = "auto" if GPU in resources else "cpu"
        told = [tuple(replace(task, device=device) for task in parcel) for parcel in parcels]
        futures = self._client.map(
            work,
            numbers,
            told,
            key=keys,
            pure=False,
            resources=resources or None,
            priority=int(bool(resources)),  # what others can do must not keep it from its worker
        )
        for number, parcel, future in zip(numbers, parcels, futures, strict=True):
            self._sent[number] = _Sent(parcel, future, wants=resources)

    def collect(self, timeout: float) -> list[Outcome]:
        """What ended; waits up to `timeout` seconds for a first one.

        Raises
        ------
        ExecutorLostError
            The scheduler is gone, or there has been no worker for longer than the profile's
            patience.
        """
        if time.monotonic() - self._checked > CHECK_EVERY:
            self._look()
        outcomes: list[Outcome] = []
        with contextlib.suppress(queue.Empty):
            outcomes += self._hear(*self._told.get(timeout=timeout))
            while True:
                outcomes += self._hear(*self._told.get_nowait())
        if time.monotonic() - self._sifted > timeout:
            outcomes += self._sift()
        return outcomes

    def close(self, *, kill: bool) -> None:
        """End; with `kill`, without waiting for units that run."""
        if kill:
            with contextlib.suppress(Exception):
                self._client.cancel([sent.future for sent in self._sent.values()], force=True)
            self._kill_workers()
        self._sent.clear()
        with hushed():
            self._stack.close()

    def _start(self) -> None:
        self._stack.enter_context(dask.config.set(deepcopy(SETTINGS)))  # Dask adds to its lists
        self._cluster = make_cluster(self.profile, self._stack, private=self._private)
        try:
            self._client = self._stack.enter_context(client_of(self.profile, self._cluster))
            self._client.subscribe_topic(self._topic, self._listen)
            self._client.register_plugin(Tuned())
            self._client.wait_for_workers(1, timeout=self.profile.patience)
        except (OSError, TimeoutError) as error:
            msg = f"no worker came within {self.profile.patience:g} s: {error}"
            raise RunError(msg) from error
        self.n_workers = 1
        self._look()
        require(
            self._demands,
            self._resources,
            where=f"none of the cluster's {self.n_workers} workers has it",
            advice='start workers with --resources, such as "GPU=1"',
        )

    def _listen(self, event: tuple[float, tuple[int, list[dict[str, Any]]]]) -> None:
        """Take what a worker tells, in the client's own thread."""
        self._told.put(event[1])

    def _hear(self, number: int, ended: list[dict[str, Any]]) -> list[Outcome]:
        sent = self._sent.pop(number, None)
        if sent is None:
            return []
        return [Outcome(task=t, **how) for t, how in zip(sent.parcel, ended, strict=True)]

    def _sift(self) -> list[Outcome]:
        """What became of parcels whose worker could not tell."""
        self._sifted = time.monotonic()
        outcomes: list[Outcome] = []
        for number, sent in list(self._sent.items()):
            if sent.future.status == "pending" or self._may_tell(sent):
                continue
            ended = self._untold(sent)
            if ended is not None:
                outcomes += ended
                self._sent.pop(number)
        return outcomes

    def _may_tell(self, sent: _Sent) -> bool:
        """Whether word of a finished parcel may still come."""
        if sent.future.status != "finished":
            return False
        sent.finished = sent.finished or self._sifted
        return self._sifted - sent.finished < TOLD_WITHIN

    def _untold(self, sent: _Sent) -> list[Outcome] | None:
        """What a parcel came to, from its error, or from its markers where its worker has died.

        An error of a unit is told by its worker; others mean that units do not reach workers.
        None while it is not known whether the batch system has ended the worker.
        """
        status = sent.future.status
        if status not in ("finished", "error"):
            msg = f"the scheduler dropped a unit ({status})"
            raise ExecutorLostError(msg)
        error: Any = sent.future.exception() if status == "error" else None
        if error is not None and not isinstance(error, KilledWorker):
            said = " ".join(str(error).split())
            reason = f"the cluster cannot run units ({type(error).__name__}: {said})"
            return [Outcome(task=task, hopeless=reason) for task in sent.parcel]
        marked = [ended_before(task) for task in sent.parcel]
        if error is None and None in marked:
            msg = "nobody tells what a finished unit came to"
            raise ExecutorLostError(msg)
        died = None if error is None else f"its worker {error.last_worker.address} died"
        if error is not None and isinstance(self.profile, SlurmProfile):
            ended_by = self._who_ended(sent, error.last_worker.name)
            if ended_by == "not known yet":
                return None
            died = None if ended_by == "by the site" else died
        both = zip(sent.parcel, marked, strict=True)
        return [ended or Outcome(task=task, died=died) for task, ended in both]

    def _who_ended(self, sent: _Sent, worker: Any) -> Ended:
        """Who ended a worker's job; where Slurm does not say for long, it is the worker itself."""
        job = getattr(self._cluster.workers.get(worker), "job_id", None) or sent.job
        sent.job = job
        sent.finished = sent.finished or self._sifted
        late = self._sifted - sent.finished > SITE_SAYS_WITHIN
        ended = how_ended(job)
        return "by itself" if late and ended == "not known yet" else ended

    def _lacks_jobs(self, n_workers: int) -> bool:
        """Whether it is time to look for jobs that have gone."""
        return (
            isinstance(self.profile, SlurmProfile)
            and n_workers < self.profile.workers
            and time.monotonic() - self._filled > REFILL_EVERY
        )

    def _replace_lost_jobs(self, connected: set[Any]) -> None:
        self._filled = time.monotonic()
        if isinstance(self.profile, SlurmProfile):
            replace_lost_jobs(self._cluster, self.profile.workers, connected)

    def _look(self) -> None:
        """Count the workers; give up where there is no scheduler, or no worker for too long."""
        if self._client.status != "running":
            msg = f"the scheduler is lost (client is {self._client.status})"
            raise ExecutorLostError(msg)
        try:
            threads = self._ask(self._client.scheduler.ncores)
            if self._wanting or not self._sent or self._lacks_jobs(len(threads)):
                workers = self._ask(self._client.scheduler.identity)["workers"].values()
                self._resources = most_of(worker["resources"] for worker in workers)
                if self._lacks_jobs(len(workers)):
                    self._replace_lost_jobs({worker["name"] for worker in workers})
        except (OSError, TimeoutError) as error:
            msg = f"the scheduler does not answer: {error!r}"
            raise ExecutorLostError(msg) from error
        self._checked = time.monotonic()
        self.n_workers = sum(threads.values())
        if self._has_processes():
            self._process_seen = self._checked
        elif self._checked - self._process_seen > GONE_AFTER:
            msg = "all worker processes are gone, and none is being started"
            raise ExecutorLostError(msg)
        if self.n_workers:
            self._seen = self._checked
        elif self._checked - self._seen > self.profile.patience:
            msg = f"there has been no worker for {self.profile.patience:g} s"
            raise ExecutorLostError(msg)
        self._require_resources()

    def _ask(self, what: Any) -> Any:
        return self._client.sync(what, callback_timeout=ANSWER_WITHIN)

    def _require_resources(self) -> None:
        """Give up where the workers are gone that alone can run what was handed out."""
        if not any(lacking(sent.wants, self._resources) for sent in self._sent.values()):
            self._equipped = self._checked
        elif self._checked - self._equipped > self.profile.patience:
            msg = f"no worker with the resources of some units for {self.profile.patience:g} s"
            raise ExecutorLostError(msg)

    def _has_processes(self) -> bool:
        """Whether a local worker lives: a nanny does not replace one that died as it started.

        The scheduler may go on to list such a worker.
        """
        if not isinstance(self._cluster, LocalCluster):
            return True
        nannies = [w for w in self._cluster.workers.values() if isinstance(w, Nanny)]
        return not nannies or any(
            nanny.process is not None and nanny.process.is_alive() for nanny in nannies
        )

    def _kill_workers(self) -> None:
        """End local worker processes at once; what they have not marked is done again."""
        if not isinstance(self._cluster, LocalCluster):
            return
        for nanny in self._cluster.workers.values():
            pid = getattr(nanny, "pid", None)  # none where the process has ended
            if pid:
                with contextlib.suppress(psutil.Error):
                    psutil.Process(pid).kill()


@dataclass(slots=True)
class _Sent:
    """A parcel that the cluster has.

    Attributes
    ----------
    parcel, future : what, and Dask's hold on it
    wants : resources of the workers that it was handed to
    finished : when it was first seen to be finished, as told by `time.monotonic`
    job : in which its worker died
    """

    parcel: Parcel
    future: Future
    wants: Mapping[str, float] = field(default_factory=dict)
    finished: float | None = None
    job: str | None = None


def most_of(workers: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Of every resource the most that one worker has."""
    found: dict[str, float] = {}
    for resources in workers:
        for name, amount in resources.items():
            found[name] = max(found.get(name, 0.0), float(amount))
    return found


def _report(work: Work, topic: str, number: int, parcel: Parcel) -> None:
    """Do the work on a worker, and tell what it came to."""
    get_worker().log_event(topic, (number, work(parcel)))


def run_on_worker(parcel: Parcel) -> list[dict[str, Any]]:
    """Run units on a worker; returns for each what of its `Outcome` is set."""
    limit = get_worker().memory_manager.memory_limit
    if limit:
        os.environ[MEMORY_LIMIT] = str(limit)
    names = ("counts", "died", "error", "hopeless")
    return [
        {name: getattr(outcome, name) for name in names if getattr(outcome, name) is not None}
        for outcome in run_parcel(parcel, guard=_deadline)
    ]


@contextlib.contextmanager
def _deadline(task: Task) -> Iterator[None]:
    """End this process when the unit takes too long, since a thread cannot be ended otherwise."""
    if task.timeout is None:
        yield
        return
    timer = threading.Timer(task.timeout, os._exit, args=(OVERDUE,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
