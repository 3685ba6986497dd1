"""The run's own driver and a real scheduler with sleeping units, and the same simulated."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path

import numpy as np
from scale_survey import HERE, blank_run, resident


@dataclass(frozen=True)
class Driven:
    """What a driver did with sleeping units.

    Attributes
    ----------
    n_tasks : exposures
    cpu : of the process of driver and scheduler [s]
    wall : from the first unit to the last [s]
    slept : summed over units [s]
    steady : share of the workers that slept while there was more to hand out
    memory : resident at the end, beyond the start [MB]
    """

    n_tasks: int
    cpu: float
    wall: float
    slept: float
    steady: float
    memory: float


def sleep_parcel(parcel) -> list[dict]:
    """Sleep as long as an exposure takes (fits; its metrics take none); nothing is written."""
    ended = []
    for task in parcel:
        seconds = duration(task.exposure) if task.stage == "fit" else 0.0
        time.sleep(seconds)
        counts = {"n_done": 1, "n_empty": 0, "n_failed": 0, "n_blocked": 0, "seconds": seconds}
        told = {"cpu_seconds": 0.0, "peak_memory": 0, "host": "here"}
        ended.append({"counts": {**counts, **told}})
    return ended


def duration(exposure: int) -> float:
    """Seconds of an exposure: lognormal, 20 % scatter, of mean `SLEEP`."""
    rng = np.random.default_rng(exposure)
    return float(os.environ.get("SLEEP", "0")) * float(rng.lognormal(-0.02, 0.2))


def drive(scratch: Path, n_exposures: int, *, workers: int, processes: bool, mean: float) -> Driven:
    """The run's own driver, and a real scheduler, with sleeping units."""
    import dask.config
    from distributed import LocalCluster

    from psfscale.config import Limits
    from psfscale.pipeline import cluster
    from psfscale.pipeline.context import RunContext
    from psfscale.pipeline.driver import Driver
    from psfscale.pipeline.events import UnitFinished
    from psfscale.pipeline.ledger.books import Books, Known
    from psfscale.pipeline.ledger.lease import Lease
    from psfscale.pipeline.plan import remaining, wanted_units
    from psfscale.pipeline.profiles import LocalProfile
    from psfscale.pipeline.storage.runstore import create_run_store, prepare_run_store

    os.environ["SLEEP"] = str(mean)
    config = blank_run(scratch, n_exposures, 1)
    context = RunContext.build(config)
    create_run_store(context)
    ends: list[tuple[float, float]] = []
    began: list[float] = []

    def note(event) -> None:
        if isinstance(event, UnitFinished) and event.stage == "fit" and event.seconds:
            ends.append((event.time, event.seconds))

    def executor():
        started = cluster.DaskExecutor(LocalProfile(workers=workers), work=sleep_parcel)
        started._client.wait_for_workers(workers)
        started._look()
        began[:] = time.time(), time.process_time()
        return started

    if not processes:
        # 200 workers in one process would each ask the system for its load, twice a second.
        dask.config.set({"distributed.admin.system-monitor.interval": "60s"})
        dask.config.set({"distributed.admin.tick.interval": "2s"})
        cluster.make_cluster = lambda *_: LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=False, dashboard_address=None
        )
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
    times, slept = np.array(ends).T if ends else np.zeros((2, 1))
    return Driven(
        n_tasks=n_exposures,
        cpu=cpu,
        wall=time.time() - began[0],
        slept=float(slept.sum()),
        steady=_busy(times, slept, began[0], workers),
        memory=resident() - before,
    )


def _busy(ends: np.ndarray, slept: np.ndarray, start: float, workers: int) -> float:
    """Share of the workers' time slept until fewer units than workers are left."""
    stop = np.sort(ends)[max(len(ends) - workers, 0)]
    overlap = np.minimum(ends, stop) - np.maximum(ends - slept, start)
    return float(overlap.clip(0).sum() / (workers * (stop - start)))


def memory(scratch: Path, *, sizes: tuple[int, ...]) -> None:
    """Memory of driver and scheduler, one process, by the number of exposures."""
    for n in sizes:
        command = [sys.executable, str(HERE / "scale_drive.py"), str(scratch), str(n)]
        subprocess.run(command, check=True)


def utilisation(scratch: Path, *, workers: int, mean: float, rounds: int) -> None:
    """How busy a real scheduler keeps many in-process workers; then the same simulated."""
    n = workers * rounds
    found = drive(scratch, n, workers=workers, processes=False, mean=mean)
    whole = found.slept / workers / found.wall
    print(
        f"measured: {workers} in-process workers, {n} units of {mean:g} s: utilisation "
        f"{found.steady:.3f} while there is more to hand out, {whole:.3f} with the tail; "
        f"driver and scheduler {1e3 * found.cpu / n:.1f} ms CPU a unit"
    )
    cost = found.cpu / n
    simulated = simulate(workers, n, mean=mean, cost=cost)
    print(f"simulated: the same, {simulated:.3f}")
    for many in (1000, 10_000):
        for length in (mean, 36.0):
            busy = simulate(many, many * rounds, mean=length, cost=cost)
            print(
                f"simulated: {many} workers, units of {length:g} s: utilisation {busy:.3f}; the "
                f"scheduler's process is {min(many / length * cost, 9.99):.0%} busy"
            )


def simulate(workers: int, n: int, *, mean: float, cost: float) -> float:
    """Utilisation while there is more to hand out: every hand-over waits for one process.

    That process, driver and scheduler in one, serves in order and takes `cost` seconds for
    each unit. File system, heartbeats and failures are not in it.
    """
    rng = np.random.default_rng(0)
    lengths = mean * rng.lognormal(-0.02, 0.2, n)
    server, ends, slept = 0.0, [], []
    free = [(0.0, worker) for worker in range(workers)]
    for length in lengths:
        asked, worker = heappop(free)
        server = max(server, asked) + cost
        heappush(free, (server + length, worker))
        ends.append(server + length)
        slept.append(length)
    return _busy(np.array(ends), np.array(slept), 0.0, workers)


if __name__ == "__main__":
    N = int(sys.argv[2])
    FOUND = drive(Path(sys.argv[1]), N, workers=2, processes=True, mean=0)
    print(
        f"measured: {N} exposures, {2 * N} units: {FOUND.memory:.0f} MB more at the end, "
        f"{resident():.0f} in all, {1e3 * FOUND.cpu / N:.2f} ms CPU an exposure in driver and "
        "scheduler"
    )
