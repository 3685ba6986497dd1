from __future__ import annotations

import json
import pickle
from collections import deque
from contextlib import nullcontext
from typing import ClassVar

import pytest
import toy

from psfscale.arrays import UnitState
from psfscale.errors import RunError
from psfscale.pipeline import status
from psfscale.pipeline.drive import driver as driver_module
from psfscale.pipeline.drive.driver import Driver
from psfscale.pipeline.drive.plan import remaining, wanted_units
from psfscale.pipeline.events import ClusterLost, UnitDied, UnitFinished, UnitSubmitted
from psfscale.pipeline.ledger.journal import begun_units, note_start
from psfscale.pipeline.ledger.lease import Lease
from psfscale.pipeline.ledger.marker import Failure, Marker
from psfscale.pipeline.ledger.table import Books, read_known
from psfscale.pipeline.runs.context import build_context
from psfscale.pipeline.runs.store import create_run_store, prepare_run_store
from psfscale.pipeline.stages.registry import NEEDS
from psfscale.pipeline.units.task import Task
from psfscale.pipeline.workers.executor import ExecutorLostError, Outcome, run_parcel, summary


class FaultyExecutor:
    """Runs units in this process, unless `fault` says how an attempt ends instead."""

    n_workers = 1

    def __init__(self, fault, *, window=4) -> None:
        self.fault, self.window = fault, window
        self.tasks: deque = deque()

    def submit(self, parcels) -> None:
        for parcel in parcels:
            lost: set = set()
            self.tasks += [(task, lost) for task in parcel]

    def collect(self, timeout: float) -> list[Outcome]:
        if not self.tasks:
            return []
        task, lost = self.tasks.popleft()
        if {(need, task.exposure) for need in NEEDS[task.stage]} & lost:
            return [Outcome(task=task)]
        ending = self.fault(task)
        if isinstance(ending, Exception):
            raise ending
        if isinstance(ending, Outcome):
            lost.add(task.key)
            return [ending]
        return list(run_parcel([task], guard=lambda _: nullcontext()))

    def close(self, *, kill: bool) -> None:
        self.tasks.clear()


@pytest.fixture
def drive(survey):
    """Drive the toy run with a faulty executor; returns the driver and its events."""

    def go(fault, *, restarts=3, **limits):
        config = toy.make_config(survey, limits=limits)
        context = build_context(config)
        create_run_store(context)
        events = []
        with Lease(context.run) as lease:
            prepare_run_store(context)
            wanted, books = wanted_units(context), Books(context.run)
            books.want(wanted.fingerprints)
            known = read_known(context.run, wanted.stages)
            driver = Driver(
                run=context.run,
                books=books,
                lease=lease,
                limits=config.limits,
                make_executor=lambda: FaultyExecutor(fault),
                restarts=restarts,
                stop=lambda: False,
                observers=(events.append,),
            )
            driver.go(remaining(wanted, known, retry_failed=False))
        return driver, events

    return go


def dies(task, *, begun=True) -> Outcome:
    if begun:
        note_start(toy.Path(task.run), task.key, attempt=task.attempt, lease=task.lease)
    return Outcome(task=task, died="its worker died")


def test_poisonous_unit__runs_alone_then_is_quarantined_by_name(drive, survey) -> None:
    driver, events = drive(lambda task: dies(task) if task.key == ("fit", 1) else None)
    attempts = [
        (e.attempt, e.alone)
        for e in events
        if isinstance(e, UnitSubmitted) and (e.stage, e.exposure) == ("fit", 1)
    ]
    assert attempts == [(1, False), (2, False), (3, True)]
    assert [e.n_deaths for e in events if isinstance(e, UnitDied)] == [1, 2, 3]
    assert driver.n_finished == 6
    stands = status(survey / "run.zarr")
    assert {(f.exposure, f.type) for f in stands.failures} == {(1, "ProcessDied")}
    assert stands.units["fit"]["failed"] == stands.units["metrics"]["failed"] == 1
    assert not begun_units(survey / "run.zarr")


def test_unit_that_only_waited_in_a_dead_worker__is_not_blamed(drive) -> None:
    tries = []

    def fault(task):
        tries.append(task.key)
        return dies(task, begun=False) if tries.count(task.key) < 6 else None

    driver, events = drive(fault)
    assert driver.n_finished == 6
    assert driver.n_failed == 0
    assert not [e for e in events if isinstance(e, UnitDied)]


def test_deaths__are_remembered_by_the_next_driver(drive, survey) -> None:
    calls = []

    def fault(task):
        if task.key != ("fit", 0):
            return None
        calls.append(task.alone)
        return dies(task) if len(calls) == 1 else ExecutorLostError("the end")

    with pytest.raises(RunError, match="gave up after 1 clusters without progress: the end"):
        drive(fault, restarts=0)
    assert status(survey / "run.zarr").deaths == {"fit/0": ["its worker died"]}
    drive(lambda task: dies(task) if task.key == ("fit", 0) else None)
    assert not status(survey / "run.zarr").deaths
    assert len(status(survey / "run.zarr").failures) == 2


def test_lost_cluster__is_replaced_and_its_units_run_again(drive) -> None:
    lost = []

    def fault(task):
        if task.key == ("metrics", 0) and not lost:
            lost.append(task)
            return ExecutorLostError("the scheduler is lost")
        return None

    driver, events = drive(fault)
    assert driver.n_finished == 6
    assert [e.n_restarts for e in events if isinstance(e, ClusterLost)] == [1]
    finished = [(e.stage, e.exposure) for e in events if isinstance(e, UnitFinished)]
    assert len(finished) == len(set(finished)) == 6


def test_clusters_lost_again_and_again__end_the_run(drive) -> None:
    with pytest.raises(RunError, match="gave up after 3 clusters without progress: no luck"):
        drive(lambda task: ExecutorLostError("no luck"), restarts=2)


def test_error_of_a_unit__quarantines_it_without_another_try(drive, survey) -> None:
    tries = []

    def fault(task):
        if task.key != ("psf", 1):
            return None
        tries.append(task)
        return Outcome(task=task, error=("KeyError", "no such array", "Traceback ..."))

    drive(fault)
    assert len(tries) == 1
    (one, other) = status(survey / "run.zarr").failures
    assert (one.stage, one.type, one.ccd_id, other.ccd_id) == ("psf", "KeyError", 1, 2)


class StuckExecutor(FaultyExecutor):
    """Never ends the fit of the first exposure; another such executor does."""

    closed: ClassVar[list[bool]] = []

    def submit(self, parcels) -> None:
        for parcel in parcels:
            task = parcel[0]
            if task.key == ("fit", 0) and not self.closed:
                note_start(toy.Path(task.run), task.key, attempt=task.attempt, lease=task.lease)
            else:
                super().submit([parcel])

    def close(self, *, kill: bool) -> None:
        self.closed.append(kill)
        super().close(kill=kill)


def test_unit_that_never_ends__is_blamed_though_others_go_on(drive, monkeypatch) -> None:
    monkeypatch.setattr(driver_module, "GRACE", 0.0)
    monkeypatch.setattr(StuckExecutor, "closed", [])
    monkeypatch.setitem(globals(), "FaultyExecutor", StuckExecutor)
    driver, events = drive(lambda task: None, unit_timeout=3.0)
    assert StuckExecutor.closed == [True, False]
    assert driver.n_finished == 6
    (lost,) = [e for e in events if isinstance(e, ClusterLost)]
    assert "1 units have not ended in their time" in lost.reason
    order = [(e.stage, e.exposure) for e in events if isinstance(e, UnitFinished)]
    assert order.index(("fit", 1)) < order.index(("fit", 0))


class SilentExecutor(FaultyExecutor):
    """Of the first one nothing is ever heard; the next one works."""

    made: ClassVar[list[FaultyExecutor]] = []

    def __init__(self, fault) -> None:
        super().__init__(fault)
        self.made.append(self)

    def collect(self, timeout: float) -> list[Outcome]:
        return super().collect(timeout) if len(self.made) > 1 else []


def test_executor_of_which_nothing_is_heard__is_replaced(drive, monkeypatch) -> None:
    monkeypatch.setattr(driver_module, "GRACE", 0.2)
    monkeypatch.setattr(driver_module, "WAIT", 0.05)
    monkeypatch.setattr(SilentExecutor, "made", [])
    monkeypatch.setitem(globals(), "FaultyExecutor", SilentExecutor)
    driver, events = drive(lambda task: None, unit_timeout=1.0)
    (lost,) = [e for e in events if isinstance(e, ClusterLost)]
    assert "no unit has ended for" in lost.reason
    assert (driver.n_finished, len(SilentExecutor.made)) == (6, 2)


class NarrowExecutor(FaultyExecutor):
    """Takes one parcel at a time, and minds how many it is given."""

    most: ClassVar[list[int]] = []

    def __init__(self, fault) -> None:
        super().__init__(fault, window=1)

    def submit(self, parcels) -> None:
        super().submit(parcels)
        self.most.append(len({task.exposure for task, _ in self.tasks}))


def test_driver__hands_out_no_more_than_the_window(drive, monkeypatch) -> None:
    monkeypatch.setattr(NarrowExecutor, "most", [])
    monkeypatch.setitem(globals(), "FaultyExecutor", NarrowExecutor)
    driver, _ = drive(lambda task: None)
    assert driver.n_finished == 6
    assert NarrowExecutor.most == [1, 1]


def test_task_and_outcome__are_less_than_a_kilobyte() -> None:
    """Also where every CCD of a wide camera has failed at length."""
    states = (int(UnitState.QUARANTINED),) * 36
    told = {"exposure": 123456, "exposure_id": "exposure-123456", "message": "m" * 10**4}
    failures = tuple(
        Failure(stage="fit", ccd=k, ccd_id=k, type="FitError", traceback="t" * 4000, **told)
        for k in range(36)
    )
    marker = Marker(
        stage="fit",
        exposure=123456,
        exposure_id="exposure-123456",
        fingerprint="0" * 16,
        states=states,
        failures=failures,
        host="a-worker-of-a-large-site.example.org",
    )
    assert len(json.dumps(summary(marker))) < 1000
    lease, run = "0" * 32, "/a/long/path/to/a/shared/file/system/" * 3
    task = Task(
        run=run, stage="fit", exposure=123456, fingerprint="0" * 16, attempt=1, lease=lease,
        keep=states, timeout=3600.0,
    )  # fmt: skip
    assert len(pickle.dumps(task)) < 1000


def test_lost_lease__stops_the_driver(drive, survey) -> None:
    from psfscale.pipeline.ledger.lease import _path

    def fault(task):
        _path(toy.Path(task.run)).unlink()

    with pytest.raises(RunError, match=r"another driver has taken .* over"):
        drive(fault)
    assert not status(survey / "run.zarr").units["fit"]["done"]


@pytest.mark.parametrize(
    ("n_workers", "n_left", "exposures"),
    [(100, 10**7, 1), (200, 10**7, 1), (1000, 10**7, 5), (10**4, 10**7, 32), (1000, 3000, 1)],
)
def test_parcels__grow_with_the_workers_that_one_scheduler_serves(
    drive, n_workers, n_left, exposures
) -> None:
    """Of units of 1 s, 2 an exposure: a hundred parcels a second at the most, while work lasts."""
    driver, _ = drive(lambda task: None)
    driver.n_finished, driver._seconds, driver._n_together = 1000, 1000.0, 2
    executor = FaultyExecutor(None, window=3 * n_workers)
    executor.n_workers = n_workers
    assert driver._exposures_a_parcel(n_left, executor) == exposures
