"""Run one unit: read its exposure, map its stage over the CCDs, write, and mark it done.

Knows no cluster. A worker calls `execute`; so does a serial run. Called as a program, it
runs one unit in a process of its own: ``python -m psfscale.pipeline.units.execute TASK``.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from psfscale.arrays import Role, UnitState
from psfscale.errors import HOPELESS, LostLeaseError, PsfscaleError
from psfscale.pipeline.ledger.journal import note_end, note_start
from psfscale.pipeline.ledger.lease import holds
from psfscale.pipeline.ledger.marker import Marker, read_marker, write_marker
from psfscale.pipeline.runs.context import versions
from psfscale.pipeline.units.deadline import UnitOverdue, alarm
from psfscale.pipeline.units.exposure_io import ExposureReader, ExposureWriter
from psfscale.pipeline.units.mapping import (
    CcdOutcomes,
    Mapped,
    Reason,
    UnitInterrupted,
    map_ccds,
    map_exposure,
)
from psfscale.pipeline.units.meter import Meter, device
from psfscale.pipeline.units.session import session_of
from psfscale.pipeline.units.task import Task, overdue
from psfscale.processes import deaf_children, end_with_parent
from psfscale.store.checkpoint import CheckpointFile
from psfscale.store.stores import STATE_DIRECTORY

MEMORY_LIMIT = "PSFSCALE_MEMORY_LIMIT"
"""Variable of the environment: what a unit in a process of its own may allocate [byte]."""
OVERDUE = 124
"""Exit code of a process whose unit took too long; as of timeout(1)."""
LOOK_EVERY = 0.2
"""Seconds between two looks whether a run is interrupted while a unit runs alone."""
START_WITHIN = 60.0
"""Seconds that a process may take beside its unit's time."""
IO_ATTEMPTS = 4
PAUSE = 0.5
"""Seconds before the first new attempt; twice as long before each next."""


def execute(
    task: Task,
    *,
    stop: Callable[[], bool] = lambda: False,
    advance: Callable[[int], None] = lambda _: None,
) -> Marker:
    """Run a unit in this process; input and output errors are tried again, with pauses.

    Parameters
    ----------
    task : what to run
    stop : whether the run was interrupted
    advance : takes the number of CCDs gone over so far

    Raises
    ------
    StoreError
        A region is not whole shards, an array is not as declared, or is damaged.
    LostLeaseError
        Another driver has taken the run over.
    OSError
        Reading or writing for the whole exposure failed `IO_ATTEMPTS` times, or cannot succeed;
        what concerns one CCD alone is that CCD's failure.
    """
    for n in range(1, IO_ATTEMPTS):
        try:
            return _execute(task, stop, advance, last=False)
        except OSError as error:
            if isinstance(error, PsfscaleError) or error.errno in HOPELESS:
                raise
        time.sleep(random.uniform(0.5, 1) * PAUSE * 2**n)
    return _execute(task, stop, advance, last=True)


def execute_alone(task: Task, *, stop: Callable[[], bool] = lambda: False) -> Marker | str:
    """Run a unit in a child process; returns how the child died, if it did.

    Raises
    ------
    UnitInterrupted
        The run was interrupted; the child is ended.
    """
    parent = str(os.getpid())
    command = [sys.executable, "-m", __name__, json.dumps(asdict(task)), parent]
    with tempfile.TemporaryFile() as errors:
        with deaf_children():
            child = subprocess.Popen(command, stderr=errors)  # noqa: S603
        try:
            code = _wait(child, task.timeout, stop)
        finally:
            child.kill()
            child.wait()
        died = overdue(task) if code in (None, OVERDUE) else _cause(code)
        errors.seek(0)
        tail = errors.read()[-2000:].decode(errors="replace").strip()
    marker = read_marker(Path(task.run), task.key)
    if marker is not None and marker.fingerprint == task.fingerprint:
        return marker
    return f"{died}; its last words: {tail}" if tail else died


def _wait(
    child: subprocess.Popen[bytes], timeout: float | None, stop: Callable[[], bool]
) -> int | None:
    """Return the exit code of a child, or None where it takes longer than it may."""
    end = None if timeout is None else time.monotonic() + timeout + START_WITHIN
    while end is None or time.monotonic() < end:
        if stop():
            raise UnitInterrupted
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(timeout=LOOK_EVERY)
    return None


def prepare(task: Task) -> None:
    """Load and open what units of the run need; that is no unit's time."""
    _ = session_of(Path(task.run), task.lease, task.device).stages


def _cause(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _execute(
    task: Task, stop: Callable[[], bool], advance: Callable[[int], None], *, last: bool
) -> Marker:
    run, meter = Path(task.run), Meter()
    session = session_of(run, task.lease, task.device)
    stage = session.stages[task.stage]
    reader = ExposureReader(stage, session, task.exposure, sample=task.sample)
    note_start(run, task.key, attempt=task.attempt, lease=task.lease)
    keep = bool(task.keep) and not reader.stage.whole
    guard = partial(_require_lease, run, task)
    writer = ExposureWriter(reader.stage, session, task.exposure, keep=keep, guard=guard)
    how = Mapped(
        stop=stop,
        guard=guard,
        keep=task.keep,
        checkpoint=_checkpoint(task),
        last_attempt=last,
        advance=advance,
    )
    run_all = map_exposure if reader.stage.whole else map_ccds
    outcomes = run_all(reader, writer, meter, how)
    marker = _finish(task, writer, reader, outcomes, meter)
    how.checkpoint.remove()
    return marker


def _checkpoint(task: Task) -> CheckpointFile:
    """Where the unit keeps itself between two phases of a long fit."""
    folder = Path(task.run) / STATE_DIRECTORY / "checkpoints"
    return CheckpointFile(folder / f"{task.stage}-{task.exposure}.npz")


def _finish(
    task: Task,
    writer: ExposureWriter,
    reader: ExposureReader,
    outcomes: CcdOutcomes,
    meter: Meter,
) -> Marker:
    """Write what is stored by exposure, then the marker."""
    run, session = Path(task.run), reader.session
    carried = writer.close()
    marker = Marker(
        stage=task.stage,
        exposure=task.exposure,
        exposure_id=reader.exposure_id,
        fingerprint=task.fingerprint,
        states=tuple(outcomes.states),
        failures=tuple(outcomes.failures),
        doubts=outcomes.doubts(reader),
        cost=meter.read(),
        host=socket.gethostname(),
        device=device(),
        attempt=task.attempt,
        finished=time.time(),
        digest=writer.digest(),
        versions=None if versions() == session.driver_versions else versions(),
        carried=carried or None,
    )
    _require_lease(run, task)
    write_marker(run, marker)
    note_end(run, task.key)
    return marker


def _require_lease(run: Path, task: Task) -> None:
    if not holds(run, task.lease):
        msg = f"another driver has taken {run} over; this unit's results are dropped"
        raise LostLeaseError(msg)


def quarantine(task: Task, reason: Reason) -> Marker:
    """Give a whole unit up: every CCD that holds objects is marked as failed for `reason`."""
    session, meter = session_of(Path(task.run), task.lease, task.device), Meter()
    reader = ExposureReader(session.stages[task.stage], session, task.exposure)
    guard = partial(_require_lease, session.context.run, task)
    writer = ExposureWriter(reader.stage, session, task.exposure, keep=False, guard=guard)
    outcomes = CcdOutcomes()
    for ccd in range(session.context.sizes["ccd"]):
        try:
            roles = reader.roles(ccd)
            held = bool((roles != Role.EMPTY).any())
        except OSError:  # lost or damaged: nobody knows which objects there are
            roles, held = np.zeros(0, np.uint8), True
        writer.leave_empty(ccd, roles)
        outcomes.add(reader, ccd, reason if held else UnitState.EMPTY)
    return _finish(task, writer, reader, outcomes, meter)


def _main() -> None:
    """Run the task given as JSON; a crash leaves a native traceback on standard error."""
    if MEMORY_LIMIT in os.environ:
        limit = int(os.environ[MEMORY_LIMIT])
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    faulthandler.enable()
    end_with_parent(int(sys.argv[2]))
    content = json.loads(sys.argv[1])
    lists = {name: tuple(content[name]) for name in ("keep", "sample")}
    task = Task(**{**content, **lists})
    prepare(task)
    try:
        with alarm(task.timeout):
            execute(task)
    except UnitOverdue:
        sys.exit(OVERDUE)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _main()
