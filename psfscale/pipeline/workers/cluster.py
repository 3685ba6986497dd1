"""Units on a Dask cluster. Bulk data never passes through it: a task is a name, its result a file.

A worker writes arrays and marker; the driver learns from the scheduler only that a unit ended,
and reads the marker. Nothing relies on Dask's memory or on its retries: a worker's death comes
back at once, and the driver decides what becomes of the units it held.
"""

from __future__ import annotations

import contextlib
import queue
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import dask
from distributed import Future
from distributed.scheduler import KilledWorker

from psfscale.errors import RunError
from psfscale.mainguard import end_if_imported_again
from psfscale.pipeline.stages.resources import GPU, Amounts, lacking, require
from psfscale.pipeline.workers.connect import client_of, hushed, make_supply
from psfscale.pipeline.workers.dask_settings import SETTINGS
from psfscale.pipeline.workers.executor import (
    Advance,
    ExecutorLostError,
    Outcome,
    Parcel,
    ended_before,
)
from psfscale.pipeline.workers.on_worker import Work, report, run_on_worker
from psfscale.pipeline.workers.profiles import ClusterProfile
from psfscale.pipeline.workers.slurm import Ended, SlurmJobs
from psfscale.processes import comes_true

CHECK_EVERY = 2.0
"""Seconds between two looks at the cluster's health."""
ANSWER_WITHIN = 30.0
"""Seconds in which a live scheduler answers."""
GONE_AFTER = 8.0
"""Seconds without a worker or a process that becomes one, after which a local cluster is lost."""
SITE_SAYS_WITHIN = 120.0
"""Seconds in which a batch system says how a job has ended; until then it is still ending."""
START_EVERY = 0.1
"""Seconds between two looks for a first worker."""
SAID_AFTER = 30.0
"""Seconds without a first worker after which the run says how long it waits."""
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
    stop : whether the run was interrupted
    say : takes sentences for whoever started the run
    advance : takes units that run, and the numbers of CCDs that they have gone over

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
        stop: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda _: None,
        advance: Advance = lambda *_: None,
    ) -> None:
        end_if_imported_again()
        self.profile, self._work, self._demands = profile, work or run_on_worker, demands or {}
        self._private, self._stop, self._say, self._advance = private, stop, say, advance
        self._told: queue.SimpleQueue[tuple[int, list[dict[str, Any]]]] = queue.SimpleQueue()
        self._sent: dict[int, _Sent] = {}
        self._topic = f"unit-{uuid.uuid4().hex}"
        self._numbers = count()
        self._checked = self._seen = self._process_seen = self._sifted = time.monotonic()
        self._equipped, self._resources = self._checked, dict[str, float]()
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
        work = partial(report, self._work, self._topic)
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
        if self._supply is not None:
            self._supply.kill(starting=not kill)
        self._sent.clear()
        self._stack.close()

    def _start(self) -> None:
        self._stack.enter_context(dask.config.set(deepcopy(SETTINGS)))  # Dask adds to its lists
        self._stack.enter_context(hushed())
        profile = self.profile
        self._supply = make_supply(profile, self._stack, private=self._private, say=self._say)
        try:
            self._client = self._stack.enter_context(client_of(profile, self._supply))
            self._client.subscribe_topic(self._topic, self._listen)
            self._await_worker()
        except (OSError, TimeoutError) as error:
            msg = f"no worker came within {profile.patience:g} s: {error}"
            raise RunError(msg) from error
        if self._stop():
            return
        self.n_workers = 1
        self._look()
        require(
            self._demands,
            self._resources,
            where=f"none of the cluster's {self.n_workers} workers has it",
            advice='start workers with --resources, such as "GPU=1"',
        )

    def _await_worker(self) -> None:
        """Wait for a first worker, or until the run is to stop."""
        start, said = time.monotonic(), False
        while not self._stop():
            if self._ask(self._client.scheduler.ncores):
                return
            waited = time.monotonic() - start
            if waited > self.profile.patience:
                msg = "the cluster has none (patience in its profile)"
                raise TimeoutError(msg)
            if waited > SAID_AFTER and not said:
                said = True
                self._say(
                    f"no worker has come for {waited:.0f} s; the run gives up after "
                    f"{self.profile.patience:g} s (patience in the cluster profile)"
                )
            if self._supply is not None:
                self._supply.fill(())
            time.sleep(START_EVERY)

    def _listen(self, event: tuple[float, tuple[int, list[dict[str, Any]]]]) -> None:
        """Take what a worker tells, in the client's own thread."""
        self._told.put(event[1])

    def _hear(self, number: int, ended: list[dict[str, Any]] | dict[str, int]) -> list[Outcome]:
        if isinstance(ended, dict):
            if number in self._sent:
                task = self._sent[number].parcel[ended["index"]]
                self._advance(task, ended["n_ccds"])
            return []
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
        if died is not None and comes_true(self._stop):  # of the same signal
            died = None
        if error is not None and isinstance(self._supply, SlurmJobs):
            ended_by = self._who_ended(self._supply, sent, error.last_worker.name)
            if ended_by == "not known yet":
                return None
            died = None if ended_by == "by the site" else died
        both = zip(sent.parcel, marked, strict=True)
        return [ended or Outcome(task=task, died=died) for task, ended in both]

    def _who_ended(self, jobs: SlurmJobs, sent: _Sent, worker: Any) -> Ended:
        """Who ended a worker's job; where Slurm does not say for long, it is the worker itself."""
        ended = jobs.who_ended(worker)
        sent.finished = sent.finished or self._sifted
        late = self._sifted - sent.finished > SITE_SAYS_WITHIN
        return "by itself" if late and ended == "not known yet" else ended

    def _look(self) -> None:
        """Count the workers; give up where there is no scheduler, or no worker for too long."""
        if self._client.status != "running":
            msg = f"the scheduler is lost (client is {self._client.status})"
            raise ExecutorLostError(msg)
        try:
            threads = self._ask(self._client.scheduler.ncores)
            lacks = self._supply is not None and len(threads) < self._supply.n_wanted
            if self._wanting or not self._sent or lacks:
                workers = self._ask(self._client.scheduler.identity)["workers"].values()
                self._resources = most_of(worker["resources"] for worker in workers)
                if self._supply is not None and lacks:
                    self._supply.fill({worker["name"] for worker in workers})
        except (OSError, TimeoutError) as error:
            msg = f"the scheduler does not answer: {error!r}"
            raise ExecutorLostError(msg) from error
        self._checked = time.monotonic()
        self.n_workers = sum(threads.values())
        if self._supply is None or self._supply.has_processes():
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


@dataclass(slots=True)
class _Sent:
    """A parcel that the cluster has.

    Attributes
    ----------
    parcel, future : what, and Dask's hold on it
    wants : resources of the workers that it was handed to
    finished : when it was first seen to be finished, as told by `time.monotonic`
    """

    parcel: Parcel
    future: Future
    wants: Mapping[str, float] = field(default_factory=dict)
    finished: float | None = None


def most_of(workers: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Of every resource the most that one worker has."""
    found: dict[str, float] = {}
    for resources in workers:
        for name, amount in resources.items():
            found[name] = max(found.get(name, 0.0), float(amount))
    return found
