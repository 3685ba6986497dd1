"""Units on a Dask cluster. Bulk data never passes through it: a task is a name, its result a file.

A worker writes arrays and marker; the driver learns from the scheduler only that a unit ended,
and reads the marker. Nothing relies on Dask's memory or on its retries: a worker's death comes
back at once, and the driver decides what becomes of the units it held.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import queue
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import dask
from distributed import Client, Future, LocalCluster, Nanny, Worker, WorkerPlugin, get_worker
from distributed.scheduler import KilledWorker
from distributed.security import Security

from psfscale.errors import ConfigError, RunError
from psfscale.pipeline.executor import (
    ExecutorLostError,
    Outcome,
    Parcel,
    ended_before,
    run_parcel,
)
from psfscale.pipeline.profiles import (
    AddressProfile,
    ClusterProfile,
    LocalProfile,
    SchedulerFileProfile,
    SlurmProfile,
)
from psfscale.pipeline.unit import MEMORY_LIMIT, OVERDUE, Task, explain

SETTINGS: dict[str, Any] = {
    "distributed.scheduler.allowed-failures": 0,  # the driver counts deaths, unit by unit
    "distributed.scheduler.worker-saturation": 1.0,  # what waits, waits in the scheduler
    "distributed.scheduler.work-stealing": False,  # units take minutes
    "distributed.scheduler.worker-ttl": "30 minutes",  # for a fit that holds the interpreter
    "distributed.comm.timeouts.connect": "60s",
    "distributed.comm.timeouts.tcp": "120s",
    "distributed.comm.retry.count": 3,
    # The profiler calls sys._current_frames, which deadlocks before Python 3.11.9 (gh-106883).
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.target": False,  # nothing worth spilling is kept
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.admin.low-level-log-length": 100,  # these logs grow with the number of units
    "distributed.admin.log-length": 100,
}
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3); the largest mmap threshold that glibc takes is 32 MiB."""
CHECK_EVERY = 2.0
"""Seconds between two looks at the cluster's health."""
ANSWER_WITHIN = 30.0
"""Seconds in which a live scheduler answers."""
Work = Callable[[Parcel], list[dict[str, Any]]]
GONE_AFTER = 8.0
"""Seconds without a worker or a process that becomes one, after which a local cluster is lost."""
RESULT_WITHIN = 10.0
"""Seconds in which the worker of a finished unit hands over what it came to, a few bytes."""
CLOSE_WITHIN = 10.0
"""Seconds in which a cluster closes; after that its processes are left to notice."""


class Tuned(WorkerPlugin):  # type: ignore[misc]
    """What a worker process needs, whatever started it: one thread, and memory that it keeps.

    One thread, so that results do not depend on the machine. Dask tells the C library to give
    memory back beyond 64 kB; a fit then spends more time in the kernel than in arithmetic
    (24 against 9 CPU s, measured), so that limit is lifted to 1 GiB.
    """

    name = "psfscale-tuned"

    def setup(self, worker: Worker) -> None:  # noqa: ARG002 (Dask calls it so)
        """Limit the thread pools of this process and let it keep freed memory."""
        import torch

        torch.set_num_threads(1)
        with contextlib.suppress(AttributeError):  # a C library without glibc's mallopt
            library = ctypes.CDLL(None)
            library.mallopt(M_TRIM_THRESHOLD, 2**30)
            library.mallopt(M_MMAP_THRESHOLD, 2**25)


class DaskExecutor:
    """Units on the workers of a cluster.

    Parameters
    ----------
    profile : where the workers come from
    work : what a worker does with a parcel, `run_on_worker` if not given

    Raises
    ------
    RunError
        No worker came within the profile's patience, or the scheduler cannot be reached.
    """

    def __init__(self, profile: ClusterProfile, *, work: Work | None = None) -> None:
        self.profile, self._work = profile, work or run_on_worker
        self._ended: queue.SimpleQueue[tuple[Parcel, Future]] = queue.SimpleQueue()
        self._futures: dict[Parcel, Future] = {}
        self._group = f"unit-{uuid.uuid4().hex}"
        self._n_submitted = 0
        self._checked = self._seen = self._process_seen = time.monotonic()
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

    def submit(self, parcel: Parcel) -> None:
        """Take units."""
        key = (self._group, self._n_submitted)
        self._n_submitted += 1
        future = self._client.submit(self._work, parcel, key=key, pure=False)
        self._futures[parcel] = future
        future.add_done_callback(lambda ended: self._ended.put((parcel, ended)))

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
            outcomes += self._outcomes(*self._ended.get(timeout=timeout))
            while True:
                outcomes += self._outcomes(*self._ended.get_nowait())
        return outcomes

    def close(self, *, kill: bool) -> None:
        """End; with `kill`, without waiting for units that run."""
        if kill:
            with contextlib.suppress(Exception):
                self._client.cancel(list(self._futures.values()), force=True)
            self._kill_workers()
        self._futures.clear()
        with _hushed():
            self._stack.close()

    def _start(self) -> None:
        self._stack.enter_context(dask.config.set(SETTINGS))
        self._cluster = _make_cluster(self.profile, self._stack)
        try:
            self._client = self._stack.enter_context(_client(self.profile, self._cluster))
            self._client.register_plugin(Tuned())
            self._client.wait_for_workers(1, timeout=self.profile.patience)
        except (OSError, TimeoutError) as error:
            msg = f"no worker came within {self.profile.patience:g} s: {error}"
            raise RunError(msg) from error
        self.n_workers = 1
        self._look()

    def _outcomes(self, parcel: Parcel, future: Future) -> list[Outcome]:
        self._futures.pop(parcel, None)
        if future.status == "finished":
            return self._finished(parcel, future)
        if future.status != "error":
            msg = f"the scheduler dropped a unit ({future.status})"
            raise ExecutorLostError(msg)
        error: Any = future.exception()
        if isinstance(error, KilledWorker):
            reason = f"its worker {error.last_worker.address} died"
            return [ended_before(task) or Outcome(task=task, died=reason) for task in parcel]
        return [Outcome(task=task, error=explain(error)) for task in parcel]

    def _finished(self, parcel: Parcel, future: Future) -> list[Outcome]:
        """What a parcel came to; from its markers where the worker that knew has died since."""
        try:
            ended = future.result(timeout=RESULT_WITHIN)
        except (OSError, TimeoutError) as error:
            future.cancel()
            marked = [ended_before(task) for task in parcel]
            if None in marked:
                msg = f"the result of a finished unit is lost: {error!r}"
                raise ExecutorLostError(msg) from error
            return [outcome for outcome in marked if outcome is not None]
        return [Outcome(task=t, **how) for t, how in zip(parcel, ended, strict=True)]

    def _look(self) -> None:
        """Count the workers; give up where there is no scheduler, or no worker for too long."""
        if self._client.status != "running":
            msg = f"the scheduler is lost (client is {self._client.status})"
            raise ExecutorLostError(msg)
        try:
            threads = self._client.sync(
                self._client.scheduler.ncores, callback_timeout=ANSWER_WITHIN
            )
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
            with contextlib.suppress(Exception):
                nanny.process.process._process.kill()  # noqa: SLF001 (distributed offers no other)


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


def _make_cluster(profile: ClusterProfile, stack: contextlib.ExitStack) -> Any:
    """The cluster of a profile that has one to start; None where one runs already."""
    if isinstance(profile, LocalProfile):
        cluster = LocalCluster(
            n_workers=profile.workers or os.cpu_count(),
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=profile.memory_per_worker,
            local_directory=None if profile.scratch is None else str(profile.scratch),
            silence_logs=logging.CRITICAL,
        )
        stack.callback(_close, cluster)
        return cluster
    if isinstance(profile, SlurmProfile):
        cluster = _slurm_cluster(profile)
        stack.callback(_close, cluster)
        return cluster
    return None


def _slurm_cluster(profile: SlurmProfile) -> Any:
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        msg = "a slurm profile needs dask-jobqueue: pip install 'psfscale[slurm]'"
        raise ConfigError(msg) from error
    return SLURMCluster(n_workers=profile.workers, **slurm_options(profile))


def slurm_options(profile: SlurmProfile) -> dict[str, Any]:
    """What dask-jobqueue is told of a profile."""
    return {
        "queue": profile.partition,
        "account": profile.account,
        "cores": 1,
        "processes": 1,
        "memory": profile.memory,
        "walltime": profile.walltime,
        "interface": profile.interface,
        "job_extra_directives": list(profile.directives),
        "job_script_prologue": list(profile.prologue),
        "log_directory": None if profile.log_directory is None else str(profile.log_directory),
        "worker_extra_args": ["--lifetime", profile.lifetime, "--lifetime-stagger", "2m"],
        "scheduler_options": {"dashboard_address": "127.0.0.1:0"},
        "security": _security(profile),
    }


def _client(profile: ClusterProfile, cluster: Any) -> Client:
    if isinstance(profile, (AddressProfile, SchedulerFileProfile)):
        security = _security(profile)
        if isinstance(profile, AddressProfile):
            return Client(profile.address, security=security, timeout=profile.patience)
        if not profile.path.is_file():
            msg = f"no scheduler file at {profile.path}; start the scheduler first"
            raise ConfigError(msg)
        return Client(scheduler_file=str(profile.path), security=security, timeout=profile.patience)
    return Client(cluster, timeout=profile.patience)


def _security(
    profile: SlurmProfile | AddressProfile | SchedulerFileProfile,
) -> Security | None:
    """TLS where the profile names certificates: without, whoever reaches the port runs code."""
    if profile.tls_ca is None:
        return None
    options = {"tls_ca_file": str(profile.tls_ca), "require_encryption": True}
    for role in ("client", "scheduler", "worker"):
        options[f"tls_{role}_cert"] = str(profile.tls_cert)
        options[f"tls_{role}_key"] = str(profile.tls_key)
    return Security(**options)


def _close(cluster: Any) -> None:
    with _hushed(), contextlib.suppress(OSError, TimeoutError):
        cluster.close(timeout=CLOSE_WITHIN)


@contextlib.contextmanager
def _hushed() -> Any:
    """Without the complaints of a cluster whose processes have been killed."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
