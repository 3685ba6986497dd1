"""Many workers, simulated: a model of driver and scheduler, fitted to real ones on small sizes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path

import numpy as np
from scale_drive import Driven, _busy, drive


@dataclass(frozen=True)
class Model:
    """Driver and scheduler as one server that takes finished units in their order.

    Attributes
    ----------
    serve : of it for each unit, before its worker has the next one [s]
    after : of it for each unit, after that: outcome, books, refill [s]
    delay : for messages and threads, which costs the server nothing [s]
    """

    serve: float
    after: float
    delay: float

    @property
    def cost(self) -> float:
        """Of the server for each unit [s]."""
        return self.serve + self.after

    def utilisation(self, workers: int, n: int, *, mean: float) -> float:
        """Share of the workers at work while there is more to hand out.

        File system, heartbeats and failures are not in it.
        """
        rng = np.random.default_rng(0)
        lengths = mean * rng.lognormal(-0.02, 0.2, n)
        server, starts = 0.0, np.zeros(n)
        free = [(0.0, worker) for worker in range(workers)]
        for k, length in enumerate(lengths):
            asked, worker = heappop(free)
            server = max(server, asked) + self.serve
            starts[k] = server + self.delay
            server += self.after if k >= workers else 0.0  # nothing has ended yet
            heappush(free, (starts[k] + length, worker))
        return _busy(starts, lengths, 0.0, workers)


def fitted(found: Driven, workers: int, *, mean: float) -> Model:
    """The model that takes as much CPU as found, and leaves workers as idle as found."""
    cost, delay = found.cpu / found.n_tasks, float(np.quantile(found.waits, 0.1))
    shares = np.linspace(0.05, 1, 20)
    models = [Model(serve=cost * s, after=cost * (1 - s), delay=delay) for s in shares]
    off = [abs(m.utilisation(workers, found.n_tasks, mean=mean) - found.steady) for m in models]
    return models[int(np.argmin(off))]


def measured(scratch: Path, workers: int, *, mean: float, rounds: int, processes: int) -> Driven:
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    n = workers * rounds
    found = drive(scratch, n, workers=workers, processes=processes, mean=mean)
    where = f"in {processes} processes of their own" if processes else "in driver's process"
    print(
        f"measured: {workers} workers {where}, {n} units of {mean:g} s: utilisation "
        f"{found.steady:.3f} while there is more to hand out, "
        f"{found.slept / workers / found.wall:.3f} with start and tail; between units "
        f"{1e3 * found.waits.mean():.1f} ms (half below {1e3 * np.median(found.waits):.1f}); "
        f"that process takes {1e3 * found.cpu / n:.2f} ms CPU a unit",
        flush=True,
    )
    return found


def utilisation(scratch: Path, *, workers: int, mean: float, rounds: int) -> None:
    """How busy a real scheduler keeps many workers; a model fitted on one size, tried on others."""
    small = workers // 2
    model = fitted(
        measured(scratch, small, mean=mean / 4, rounds=rounds, processes=0), small, mean=mean / 4
    )
    print(f"fitted on that: {model}")
    for length in (mean / 4, mean):
        found = measured(scratch, workers, mean=length, rounds=rounds, processes=0)
        guess = model.utilisation(workers, found.n_tasks, mean=length)
        print(f"simulated: the same, {guess:.3f} ({100 * (guess - found.steady):+.1f} points)")
    found = measured(scratch, workers, mean=mean / 4, rounds=rounds, processes=2)
    remote = fitted(found, workers, mean=mean / 4)
    print(f"fitted on that: {remote}")
    for many in (1000, 10_000):
        for length in (mean, 36.0, 130.0, 380.0):
            extrapolate(remote, many, length, rounds)


def extrapolate(model: Model, workers: int, mean: float, rounds: int) -> None:
    """Print what one scheduler makes of so many workers, and how many it takes for 0.9."""
    n_drivers, busy = 0, 0.0
    while busy < 0.9 and n_drivers < workers:
        n_drivers += 1
        share = workers // n_drivers
        busy = model.utilisation(share, share * rounds, mean=mean)
        if n_drivers == 1:
            load = workers / mean * model.cost
            print(
                f"simulated: {workers} workers, units of {mean:g} s, one scheduler: utilisation "
                f"{busy:.3f}; its process would be {load:.0%} busy"
            )
    if n_drivers > 1:
        print(f"simulated: the same with {n_drivers} drivers: {busy:.3f}")
