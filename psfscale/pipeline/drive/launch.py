"""Run a survey: plan, prepare the store, drive the units, compact and aggregate."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from signal import Signals
from typing import TYPE_CHECKING

from psfscale.arrays import UnitState
from psfscale.errors import HOPELESS, ConfigError, RunError
from psfscale.mainguard import end_if_imported_again
from psfscale.pipeline.drive.aggregates import write_aggregates
from psfscale.pipeline.drive.driver import Driver
from psfscale.pipeline.drive.plan import Plan, remaining, wanted_units
from psfscale.pipeline.events import (
    Event,
    Notice,
    Observer,
    RunFinished,
    RunStarted,
    UnitAdvanced,
)
from psfscale.pipeline.events.log import EventLog
from psfscale.pipeline.ledger.doubts import doubt_lines
from psfscale.pipeline.ledger.files import sweep
from psfscale.pipeline.ledger.lease import Lease
from psfscale.pipeline.ledger.marker import DoubtfulCcd, Failure, read_markers
from psfscale.pipeline.ledger.table import Books, count_ccds, read_known
from psfscale.pipeline.runs.context import build_context
from psfscale.pipeline.runs.store import create_run_store, prepare_run_store
from psfscale.pipeline.stages.context import RunContext
from psfscale.pipeline.stages.registry import stages_of
from psfscale.pipeline.stages.resources import GPU, Amounts, demanded, require
from psfscale.pipeline.units.meter import peak_memory
from psfscale.pipeline.workers.executor import Advance, Executor, SerialExecutor
from psfscale.pipeline.workers.profiles import KEYS, LocalProfile
from psfscale.processes import Interrupt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import numpy as np

    from psfscale.config import RunConfig
    from psfscale.pipeline.events.bar import ProgressBar
    from psfscale.pipeline.ledger.marker import Key
    from psfscale.pipeline.units.task import Task
    from psfscale.pipeline.workers.profiles import ClusterProfile

INTERRUPTED = "interrupted by {}; the same command resumes"


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """How a run stands when its driver ends.

    Attributes
    ----------
    run : path of the run store
    n_units : units finished by this driver
    n_skipped : units that were done before
    n_left : units still to do
    ccds : CCDs by stage and state, over the whole run
    failures : of all quarantined CCDs of the run
    doubts : of all doubtful CCDs of the run
    seconds : wall time of this driver
    peak_memory : of this driver's process [byte]
    signal : that interrupted the run, or None
    doubtful_code : exit code of a run with doubtful CCDs and no failures
    """

    run: Path
    n_units: int
    n_skipped: int
    n_left: int
    ccds: dict[str, dict[str, int]]
    failures: tuple[Failure, ...]
    seconds: float
    peak_memory: int
    signal: int | None = None
    doubts: tuple[DoubtfulCcd, ...] = ()
    doubtful_code: int = 0

    @property
    def n_blocked(self) -> int:
        """CCDs not tried because a stage before failed on them."""
        return sum(states.get(UnitState.BLOCKED.name, 0) for states in self.ccds.values())

    @property
    def exit_code(self) -> int:
        """0 all good, 1 some CCDs failed or are blocked, 128 + signal where interrupted.

        Where the run asks for it, 3 if none failed and some are doubtful.
        """
        if self.signal is not None:
            return 128 + self.signal
        if self.failures or self.n_blocked or self.n_left:
            return 1
        return self.doubtful_code if self.doubts else 0

    def __str__(self) -> str:
        lines = [
            f"{self.n_units} units run, {self.n_skipped} were done before, {self.n_left} left, "
            f"{self.seconds:.1f} s"
        ]
        for stage, states in self.ccds.items():
            counts = ", ".join(f"{n} {name.lower()}" for name, n in states.items() if n)
            lines.append(f"  {stage:8} CCDs: {counts}")
        if self.failures:
            lines.append(f"{len(self.failures)} CCDs quarantined; `psfscale status {self.run}`")
        lines += doubt_lines(asdict(doubt) for doubt in self.doubts)
        if self.signal is not None:
            lines.append(INTERRUPTED.format(Signals(self.signal).name))
        return "\n".join(lines)


def run(
    config: RunConfig,
    *,
    cluster: ClusterProfile | None = None,
    serial: bool = False,
    retry_failed: bool = False,
    learn_again: bool = False,
    overwrite: bool = False,
    observers: Iterable[Observer] | None = None,
    interrupt: Interrupt | None = None,
    wait_lease: float = 0.0,
) -> RunSummary:
    """Run all units that are not done; the same call resumes whatever ended a run before.

    Parameters
    ----------
    config : of the run
    cluster : where workers come from; processes on this machine if not given
    serial : run everything in this process, without a cluster
    retry_failed : try quarantined CCDs again; galaxies are restored by the prior that stands
    learn_again : learn the prior of restored galaxies again, and restore them all by it
    overwrite : delete finished products at the output that are of another survey, or whose shapes
        the settings have changed
    observers : are told every event; a progress bar if not given
    interrupt : by which the run is asked to stop; signals to this process if not given
    wait_lease : how long to wait for the lease of another driver of the run [s]

    Raises
    ------
    ConfigError
        The instrument file or a setting is wrong, or `cluster` is given for a serial run.
    StoreError
        There is no survey store, the output path holds something else, or finished products
        would have to be deleted and `overwrite` is False.
    RunError
        Another driver holds the run, too many CCDs failed, or clusters were lost again and
        again.
    """
    end_if_imported_again()
    _require_one_place(cluster, serial=serial)
    start = time.time()
    context = build_context(config)
    stages = {name: stage.resources for name, stage in stages_of(context).items()}
    demands = demanded(context, stages)
    create_run_store(context)
    with ExitStack() as stack:
        interrupt = stack.enter_context(interrupt or Interrupt())
        lease = stack.enter_context(Lease(context.run, wait=wait_lease, check=interrupt.check))
        log = stack.enter_context(EventLog(context.run))
        sweep(context.run)
        prepare_run_store(context, overwrite=overwrite)
        books = Books(context.run)
        books.take_in()
        plan = _plan(context, books, retry_failed=retry_failed, learn_again=learn_again)
        seen = (stack.enter_context(progress_bar()),) if observers is None else observers
        told: tuple[Observer, ...] = (log, *seen)
        wanted, tell, profile = (
            _still(demands, plan),
            partial(_tell, told),
            cluster or LocalProfile(),
        )
        driver = Driver(
            run=context.run,
            books=books,
            lease=lease,
            limits=config.limits,
            make_executor=_executors(
                context.run, None if serial else profile, interrupt, wanted, tell
            ),
            resources={name: {**wish, **demands.get(name, {})} for name, wish in stages.items()},
            restarts=profile.restarts,
            stop=interrupt.caught,
            observers=told,
        )
        _drive(driver, plan, context, start)
        return _summarise(context, plan, driver, interrupt, start)


def _require_one_place(cluster: ClusterProfile | None, *, serial: bool) -> None:
    if serial and cluster is not None:
        msg = "a serial run takes no cluster: leave out one of the two"
        raise ConfigError(msg)


def _tell(observers: Iterable[Observer], event: Event) -> None:
    for observer in observers:
        observer(event)


def _plan(context: RunContext, books: Books, **again: bool) -> Plan:
    wanted = wanted_units(context)
    books.want(wanted.fingerprints)
    known = read_known(context.run, wanted.stages)
    return remaining(wanted, known, **again)


def _still(demands: Mapping[str, Amounts], plan: Plan) -> dict[str, Amounts]:
    """Demands of the stages that have something to do."""
    at = plan.wanted.stages.index
    return {name: want for name, want in demands.items() if (plan.why[:, at(name)] > 0).any()}


def _executors(
    run: Path,
    profile: ClusterProfile | None,
    interrupt: Interrupt,
    demands: Mapping[str, Amounts],
    tell: Observer,
) -> Callable[[], Executor]:
    def advance(task: Task, n_ccds: int) -> None:
        tell(UnitAdvanced(stage=task.stage, exposure=task.exposure, n_ccds=n_ccds))

    if profile is None:
        return lambda: _serial(interrupt, demands, advance)

    def make() -> Executor:
        from psfscale.pipeline.workers.cluster import DaskExecutor

        return DaskExecutor(
            profile,
            demands=demands,
            private=run / KEYS,
            stop=interrupt.caught,
            say=lambda text: tell(Notice(text=text)),
            advance=advance,
        )

    return make


def _serial(interrupt: Interrupt, demands: Mapping[str, Amounts], advance: Advance) -> Executor:
    """Units in this process; the accelerators that it sees are what it has."""
    if demands:
        import torch

        here = {GPU: float(torch.cuda.device_count())}
        advice = "run on a cluster whose workers declare it"
        require(demands, here, where=f"this process sees {here[GPU]:g} GPUs", advice=advice)
    return SerialExecutor(interrupt.caught, advance)


def notices(context: RunContext) -> list[str]:
    """What of a run may not be as its starter thinks."""
    chromatic = [model.name for model in context.models if model.chromatic]
    if chromatic and not context.has_spectra:
        return [
            f"{context.config.survey} holds no spectra: {chromatic[0]} takes all stars and "
            "galaxies to be flat over the passband"
        ]
    return []


def progress_bar(n_runs: int = 1) -> ProgressBar:
    """Return a bar of the steps of so many runs."""
    from psfscale.pipeline.events.bar import ProgressBar

    return ProgressBar(n_runs=n_runs)


def _drive(driver: Driver, plan: Plan, context: RunContext, start: float) -> None:
    """Run the units; compact and close the books however that ends."""
    reason = "all units are finished"
    for text in notices(context):
        driver.tell(Notice(text=text))
    n_units, n_ccds = (plan.why > 0).sum(axis=0).tolist(), context.sizes["ccd"]
    driver.tell(
        RunStarted(
            run=str(driver.run),
            n_units=plan.n_todo,
            n_done=plan.n_done,
            steps={s: n * n_ccds for s, n in zip(plan.wanted.stages, n_units, strict=True) if n},
        )
    )
    try:
        driver.go(plan)
        if driver.stop():
            reason = "interrupted"
    except OSError as error:
        reason = f"{type(error).__name__}: {error}"
        if error.errno not in HOPELESS:
            raise
        msg = f"{error}: mend that; the same command resumes"
        raise RunError(msg) from error
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
        raise
    finally:
        driver.tell(
            RunFinished(
                n_units=driver.n_finished,
                n_left=plan.n_todo - driver.n_finished,
                reason=reason,
                seconds=round(time.time() - start, 3),
                peak_memory=peak_memory(),
            )
        )
    if not driver.stop():
        write_aggregates(context)


def _summarise(
    context: RunContext, plan: Plan, driver: Driver, interrupt: Interrupt, start: float
) -> RunSummary:
    run = context.run
    known = read_known(run, plan.wanted.stages)
    done = (known.fingerprints == plan.wanted.fingerprints) & (known.fingerprints > 0)
    markers = [m for key, m in read_markers(run).items() if _is(done, plan, key)]
    return RunSummary(
        run=run,
        n_units=driver.n_finished,
        n_skipped=plan.n_done,
        n_left=plan.n_todo - driver.n_finished,
        ccds=count_ccds(plan.wanted.stages, known, done),
        failures=tuple(failure for marker in markers for failure in marker.failures),
        doubts=tuple(doubt for marker in markers for doubt in marker.doubts),
        doubtful_code=context.config.quality.exit_code,
        seconds=time.time() - start,
        peak_memory=peak_memory(),
        signal=interrupt.signal,
    )


def _is(done: np.ndarray, plan: Plan, key: Key) -> bool:
    return bool(done[key[1], plan.wanted.stages.index(key[0])])
