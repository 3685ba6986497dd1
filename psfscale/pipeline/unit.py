"""Run one unit: read its exposure, map its stage over the CCDs, write, and mark it done.

Knows no cluster. A worker calls `execute`; so does a serial run. Called as a program, it
runs one unit in a process of its own: ``python -m psfscale.pipeline.unit TASK``.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from psfscale.arrays import Role, UnitState
from psfscale.errors import PsfscaleError, RunError
from psfscale.pipeline.context import stored_context, versions
from psfscale.pipeline.ledger.journal import note_end, note_start
from psfscale.pipeline.ledger.lease import holds
from psfscale.pipeline.ledger.marker import (
    Failure,
    Key,
    Marker,
    read_marker,
    remove_marker,
    write_marker,
)
from psfscale.pipeline.stages import NEEDS, STAGE_NAMES, stages_of
from psfscale.pipeline.storage.exposure import ExposureReader, ExposureWriter

if TYPE_CHECKING:
    from psfscale.pipeline.context import RunContext
    from psfscale.pipeline.stages import Stage

TRACEBACK_LENGTH = 4000
IO_ATTEMPTS = 4

Reason = tuple[str, str, str]
"""Type, message and the end of the traceback of an error."""


class UnitInterrupted(BaseException):
    """The driver was asked to stop while it ran a unit itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What a worker is told: names and numbers, never data.

    Attributes
    ----------
    run : path of the run store
    stage, exposure, fingerprint : the unit
    attempt : 1 for the first
    lease : token of the driver that asks
    keep : states of the CCDs where only failed ones are tried again, else empty
    alone : run it in a process of its own
    timeout : longest it may take [s]
    """

    run: str
    stage: str
    exposure: int
    fingerprint: str
    attempt: int
    lease: str
    keep: tuple[int, ...] = ()
    alone: bool = False
    timeout: float | None = None

    @property
    def key(self) -> Key:
        """(stage, exposure)."""
        return self.stage, self.exposure


def execute(task: Task, *, stop: Callable[[], bool] = lambda: False) -> Marker:
    """Run a unit in this process; input and output errors are tried again, with pauses.

    Raises
    ------
    StoreError
        A region is not whole shards, or an array is not as declared.
    RunError
        Another driver has taken the run over.
    OSError
        Reading or writing failed `IO_ATTEMPTS` times.
    """
    from tenacity import (
        Retrying,
        retry_if_exception,
        stop_after_attempt,
        wait_random_exponential,
    )

    retrying = Retrying(
        retry=retry_if_exception(_is_io_error),
        stop=stop_after_attempt(IO_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.5, max=30),
        reraise=True,
    )
    return retrying(_execute, task, stop)


def execute_alone(task: Task) -> Marker | str:
    """Run a unit in a child process; returns how the child died, if it did."""
    command = [sys.executable, "-m", __name__, json.dumps(asdict(task))]
    with tempfile.TemporaryFile() as errors:
        try:
            child = subprocess.run(command, stderr=errors, timeout=task.timeout, check=False)  # noqa: S603
            died = _cause(child.returncode)
        except subprocess.TimeoutExpired:
            died = f"took more than {task.timeout:g} s"
        errors.seek(0)
        tail = errors.read()[-2000:].decode(errors="replace").strip()
    marker = read_marker(Path(task.run), task.key)
    if marker is not None and marker.fingerprint == task.fingerprint:
        return marker
    return f"{died}; its last words: {tail}" if tail else died


def _cause(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _is_io_error(error: BaseException) -> bool:
    return isinstance(error, OSError) and not isinstance(error, PsfscaleError)


def _execute(task: Task, stop: Callable[[], bool]) -> Marker:
    start, run = time.time(), Path(task.run)
    context = stored_context(run, task.lease)
    stage = _stages(run, task.lease)[task.stage]
    reader = ExposureReader(stage, context, task.exposure, lease=task.lease)
    note_start(run, task.key, attempt=task.attempt, lease=task.lease)
    for key in (task.key, *_downstream(task)):
        remove_marker(run, key)
    states, failures = _map_ccds(task, context, reader, stop)
    return _finish(task, reader, states, failures, start)


def _finish(
    task: Task,
    reader: ExposureReader,
    states: list[int],
    failures: list[Failure],
    start: float,
) -> Marker:
    run = Path(task.run)
    marker = Marker(
        stage=task.stage,
        exposure=task.exposure,
        exposure_id=reader.exposure_id,
        fingerprint=task.fingerprint,
        states=tuple(states),
        failures=tuple(failures),
        seconds=round(time.time() - start, 3),
        peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        host=socket.gethostname(),
        attempt=task.attempt,
        finished=time.time(),
        versions=versions(),
    )
    _require_lease(run, task)
    write_marker(run, marker)
    note_end(run, task.key)
    return marker


@lru_cache(maxsize=4)
def _stages(run: Path, lease: str) -> dict[str, Stage]:
    return stages_of(stored_context(run, lease))


def _downstream(task: Task) -> list[Key]:
    """Units of the exposure that read, at any remove, what this unit writes."""
    found = {task.stage}
    for name in STAGE_NAMES:
        if found & set(NEEDS[name]):
            found.add(name)
    return [(name, task.exposure) for name in STAGE_NAMES if name in found - {task.stage}]


def _require_lease(run: Path, task: Task) -> None:
    if not holds(run, task.lease):
        msg = f"another driver has taken {run} over; this unit's results are dropped"
        raise RunError(msg)


def _map_ccds(
    task: Task, context: RunContext, reader: ExposureReader, stop: Callable[[], bool]
) -> tuple[list[int], list[Failure]]:
    stage = reader.stage
    writer = ExposureWriter(stage, context, task.exposure, lease=task.lease, keep=bool(task.keep))
    upstream = [_upstream(context.run, (need, task.exposure)) for need in stage.needs]
    states: list[int] = []
    failures: list[Failure] = []
    for ccd in range(context.sizes["ccd"]):
        if stop():
            raise UnitInterrupted
        if task.keep and task.keep[ccd] in (UnitState.DONE, UnitState.EMPTY):
            states.append(task.keep[ccd])
            continue
        state = _state_before(ccd, reader.roles(ccd), upstream)
        if state is UnitState.PENDING:
            state, failure = _run_ccd(ccd, context, reader, writer)
            failures += [failure] if failure else []
        if state is not UnitState.DONE:
            writer.leave_empty(ccd, reader.roles(ccd))
        states.append(int(state))
    _require_lease(context.run, task)
    writer.close()
    return states, failures


def _upstream(run: Path, key: Key) -> Marker:
    """The marker of a unit that the driver knows to be done; a slow file system may lag."""
    marker = read_marker(run, key)
    if marker is None:
        msg = f"the marker of {key[0]} of exposure {key[1]} is not to be seen in {run} yet"
        raise FileNotFoundError(msg)
    return marker


def _state_before(ccd: int, roles: np.ndarray, upstream: list[Marker]) -> UnitState:
    """EMPTY or BLOCKED where there is nothing to run, else PENDING."""
    if not (roles != Role.EMPTY).any():
        return UnitState.EMPTY
    ready = all(marker.states[ccd] == UnitState.DONE for marker in upstream)
    return UnitState.PENDING if ready else UnitState.BLOCKED


def _run_ccd(
    ccd: int, context: RunContext, reader: ExposureReader, writer: ExposureWriter
) -> tuple[UnitState, Failure | None]:
    stage = reader.stage
    try:
        writer.take(ccd, stage.run(reader.ccd(ccd), context))
    except Exception as error:
        if _is_io_error(error):
            raise
        return UnitState.QUARANTINED, _failure(reader, ccd, explain(error))
    return UnitState.DONE, None


def explain(error: BaseException) -> Reason:
    """Type, message and the end of the traceback of an error."""
    text = "".join(traceback.format_exception(error)).strip()
    return type(error).__name__, str(error), text[-TRACEBACK_LENGTH:]


def _failure(reader: ExposureReader, ccd: int, reason: Reason) -> Failure:
    kind, message, tail = reason
    return Failure(
        stage=reader.stage.name,
        exposure=reader.exposure,
        exposure_id=reader.exposure_id,
        ccd=ccd,
        ccd_id=reader.ccd_id(ccd),
        type=kind,
        message=message,
        traceback=tail,
    )


def quarantine(task: Task, reason: Reason) -> Marker:
    """Give a whole unit up: every CCD that holds objects is marked as failed for `reason`."""
    run = Path(task.run)
    context, start = stored_context(run, task.lease), time.time()
    reader = ExposureReader(
        _stages(run, task.lease)[task.stage], context, task.exposure, lease=task.lease
    )
    writer = ExposureWriter(reader.stage, context, task.exposure, lease=task.lease, keep=False)
    _require_lease(run, task)
    for key in (task.key, *_downstream(task)):
        remove_marker(run, key)
    states, failures = [], []
    for ccd in range(context.sizes["ccd"]):
        roles = reader.roles(ccd)
        writer.leave_empty(ccd, roles)
        held = bool((roles != Role.EMPTY).any())
        states.append(int(UnitState.QUARANTINED if held else UnitState.EMPTY))
        failures += [_failure(reader, ccd, reason)] if held else []
    writer.close()
    return _finish(task, reader, states, failures, start)


def _main() -> None:
    """Run the task given as JSON; a crash leaves a native traceback on standard error."""
    faulthandler.enable()
    content = json.loads(sys.argv[1])
    execute(Task(**{**content, "keep": tuple(content["keep"])}))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _main()
