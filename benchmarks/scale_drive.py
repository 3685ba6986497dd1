"""The run's own driver and a real scheduler, with units that sleep."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scale_survey import HERE, blank_run, resident


@dataclass(frozen=True)
class Driven:
    """What a driver did with sleeping units.

    Attributes
    ----------
    n_tasks : exposures
    cpu : of the process of driver and scheduler, and of workers where they are in it [s]
    wall : from the first unit to the last [s]
    slept : summed over units [s]
    steady : share of the workers that slept while there was more to hand out
    waits : of every worker between two units, lateness of the alarm clock included [s]
    memory : resident at the end, beyond the start [MB]
    """

    n_tasks: int
    cpu: float
    wall: float
    slept: float
    steady: float
    waits: np.ndarray
    memory: float


def sleep_parcel(parcel) -> list[dict]:
    """Sleep as long as an exposure takes (fits; its metrics take none); nothing is written.

    What is told as host and CPU seconds is the worker's thread, and when it fell asleep.
    """
    ended = []
    for task in parcel:
        seconds, start = duration(task.exposure) if task.stage == "fit" else 0.0, time.time()
        time.sleep(seconds)
        counts = {"n_done": 1, "n_empty": 0, "n_failed": 0, "n_blocked": 0, "seconds": seconds}
        told = {"cpu_seconds": start, "peak_memory": 0}
        host = f"{os.getpid()}-{threading.get_ident()}"
        ended.append({"counts": {**counts, **told, "host": host}})
    return ended


def duration(exposure: int) -> float:
    """Seconds of an exposure: lognormal, 20 % scatter, of mean `SLEEP`."""
    rng = np.random.default_rng(exposure)
    return float(os.environ.get("SLEEP", "0")) * float(rng.lognormal(-0.02, 0.2))


def drive(scratch: Path, n_exposures: int, *, workers: int, processes: int, mean: float) -> Driven:
    """The run's own driver, and a real scheduler, with sleeping units.

    Parameters
    ----------
    workers : threads that sleep
    processes : that they are in; 0: each a worker in the process of driver and scheduler
    mean : length of a unit [s]
    """
    from distributed import LocalCluster

    from psfscale.config import Limits
    from psfscale.pipeline.drive.driver import Driver
    from psfscale.pipeline.drive.plan import remaining, wanted_units
    from psfscale.pipeline.events import UnitFinished
    from psfscale.pipeline.ledger.lease import Lease
    from psfscale.pipeline.ledger.table import Books, Known
    from psfscale.pipeline.runs.context import build_context
    from psfscale.pipeline.runs.store import create_run_store, prepare_run_store
    from psfscale.pipeline.workers import cluster
    from psfscale.pipeline.workers.profiles import LocalProfile

    os.environ["SLEEP"] = str(mean)
    config = blank_run(scratch, n_exposures, 1)
    context = build_context(config)
    create_run_store(context)
    naps: list[tuple[str, float, float]] = []
    began: list[float] = []

    def note(event) -> None:
        if isinstance(event, UnitFinished) and event.stage == "fit" and event.seconds:
            naps.append((event.host, event.cpu_seconds, event.seconds))

    def executor():
        started = cluster.DaskExecutor(LocalProfile(workers=workers), work=sleep_parcel)
        started._client.wait_for_workers(processes or workers)
        started._look()
        began[:] = time.time(), time.process_time()
        return started

    def make_cluster(*_):
        n = processes or workers
        shape = {"n_workers": n, "threads_per_worker": workers // n, "processes": processes > 0}
        return LocalCluster(**shape, dashboard_address="127.0.0.1:0")

    if not processes:
        quieten()
    cluster.make_cluster = make_cluster
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # hundreds of workers say goodbye
    with Lease(context.run) as lease:
        prepare_run_store(context)
        before = resident()
        wanted = wanted_units(context)
        known = Known.nothing(n_exposures, 1, wanted.fingerprints.shape[1])
        driver = Driver(
            run=context.run,
            books=Books(context.run),
            lease=lease,
            limits=Limits(),
            make_executor=executor,
            restarts=0,
            stop=lambda: False,
            observers=(note,),
        )
        driver.go(remaining(wanted, known, retry_failed=False))
        cpu = time.process_time() - began[1]
    threads, starts, slept = zip(*naps, strict=True) if naps else (("",), (0.0,), (0.0,))
    return Driven(
        n_tasks=n_exposures,
        cpu=cpu,
        wall=time.time() - began[0],
        slept=sum(slept),
        steady=_busy(np.array(starts), np.array(slept), began[0], workers),
        waits=_waits(threads, np.array(starts), np.array(slept)),
        memory=resident() - before,
    )


def quieten() -> None:
    """200 workers in one process would each ask the system for its load."""
    from psfscale.pipeline.workers import cluster

    cluster.SETTINGS["distributed.admin.system-monitor.interval"] = "60s"
    cluster.SETTINGS["distributed.admin.tick.interval"] = "2s"


def _busy(starts: np.ndarray, slept: np.ndarray, start: float, workers: int) -> float:
    """Share of the workers' time slept until fewer units than workers are left."""
    ends = starts + slept
    stop = np.sort(ends)[max(len(ends) - workers, 0)]
    overlap = np.minimum(ends, stop) - np.maximum(starts, start)
    return float(overlap.clip(0).sum() / (workers * max(stop - start, 1e-9)))


def _waits(threads: Sequence[str], starts: np.ndarray, slept: np.ndarray) -> np.ndarray:
    """From when each unit but a thread's last should have ended to the start of its next."""
    order = np.lexsort((starts, threads))
    same = np.array(threads)[order][1:] == np.array(threads)[order][:-1]
    return (starts[order][1:] - (starts + slept)[order][:-1])[same]


def memory(scratch: Path, *, sizes: tuple[int, ...]) -> None:
    """Memory of driver and scheduler, one process, by the number of exposures."""
    for n in sizes:
        command = [sys.executable, str(HERE / "scale_drive.py"), str(scratch), str(n)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    N = int(sys.argv[2])
    FOUND = drive(Path(sys.argv[1]), N, workers=2, processes=2, mean=0)
    print(
        f"measured: {N} exposures, {2 * N} units: {FOUND.memory:.0f} MB more at the end, "
        f"{resident():.0f} in all, {1e3 * FOUND.cpu / N:.2f} ms CPU an exposure in driver and "
        "scheduler"
    )
