"""Over the CCDs of an exposure: a stage run on each, or on all at once, failures kept apart."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from psfscale.arrays import Role, UnitState
from psfscale.errors import HOPELESS, LostLeaseError, PsfCheckError, PsfscaleError
from psfscale.pipeline.ledger.marker import DoubtfulCcd, Failure, Key, read_marker
from psfscale.pipeline.stages.choose import STATES
from psfscale.pipeline.stages.quality import VERDICT, Verdict, pooled_doubt
from psfscale.pipeline.stages.registry import STAGE_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from psfscale.pipeline.stages.stage import Stage
    from psfscale.pipeline.units.exposure_io import ExposureReader, ExposureWriter
    from psfscale.pipeline.units.meter import Meter
    from psfscale.pipeline.units.session import Session
    from psfscale.quality import Doubt
    from psfscale.store.checkpoint import CheckpointFile

TRACEBACK_LENGTH = 4000
Reason = tuple[str, str, str]
"""Type, message and the end of the traceback of an error."""


class UnitInterrupted(BaseException):
    """The driver was asked to stop while it ran a unit itself."""


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """How a unit goes over its CCDs.

    Attributes
    ----------
    stop : whether the run was interrupted
    guard : raises where another driver has taken the run over
    keep : states of the CCDs where only failed ones are tried again, else empty
    checkpoint : where a fit of all CCDs keeps itself between two phases
    last_attempt : whether errors of input and output that concern one CCD are its failure, as
        trying again has not helped
    advance : takes the number of CCDs gone over so far
    """

    stop: Callable[[], bool]
    guard: Callable[[], None]
    keep: tuple[int, ...]
    checkpoint: CheckpointFile
    last_attempt: bool
    advance: Callable[[int], None] = lambda _: None

    def is_failure(self, error: Exception) -> bool:
        """Whether an error is the failure of what was computed, not of the whole unit."""
        if isinstance(error, LostLeaseError):
            return False
        if isinstance(error, OSError) and not isinstance(error, PsfscaleError):
            return self.last_attempt and error.errno not in HOPELESS
        return True


@dataclass(kw_only=True)
class CcdOutcomes:
    """What became of the CCDs of an exposure in a stage.

    Attributes
    ----------
    states : `UnitState` of every CCD
    failures : of the quarantined ones
    verdicts : of the quality checks, by CCD
    """

    states: list[int] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    verdicts: dict[int, Verdict] = field(default_factory=dict)

    def add(self, reader: ExposureReader, ccd: int, found: UnitState | Reason | Verdict) -> None:
        """Take what became of the next CCD."""
        if isinstance(found, Verdict):
            self.verdicts[ccd] = found
            found = UnitState.DOUBTFUL if found.doubts else UnitState.DONE
        elif not isinstance(found, UnitState):
            self.failures.append(failure_of(reader, ccd, found))
            found = UnitState.QUARANTINED
        self.states.append(int(found))

    def doubts(self, reader: ExposureReader) -> tuple[DoubtfulCcd, ...]:
        """The doubts of all CCDs, as the marker has them."""
        return tuple(
            _doubtful(reader, ccd, doubt)
            for ccd, verdict in self.verdicts.items()
            for doubt in verdict.doubts
        )

    def pool(self, reader: ExposureReader, writer: ExposureWriter) -> None:
        """Judge the CCDs with few reserved stars by those of all of them."""
        limits = reader.session.context.config.quality
        doubt = pooled_doubt(self.verdicts.values(), limits)
        few = [ccd for ccd, verdict in self.verdicts.items() if verdict.few is not None]
        for ccd in few if doubt else ():
            verdict = self.verdicts[ccd]
            if limits.on_doubt == "fail":
                writer.leave_empty(ccd, reader.roles(ccd))
                reason = PsfCheckError.__name__, str(doubt), ""
                self.failures.append(failure_of(reader, ccd, reason))
                self.states[ccd] = int(UnitState.QUARANTINED)
                del self.verdicts[ccd]
            elif doubt is not None:
                self.verdicts[ccd] = replace(verdict, doubts=(*verdict.doubts, doubt))
                self.states[ccd] = int(UnitState.DOUBTFUL)


def map_ccds(
    reader: ExposureReader, writer: ExposureWriter, meter: Meter, how: Mapped
) -> CcdOutcomes:
    """Run a stage CCD by CCD."""
    session = reader.session
    upstream = [_states_of(session, (need, reader.exposure)) for need in reader.stage.needs]
    for key in product(reader.stage.gathers, reader.sample):
        _states_of(session, key)  # that their products are to be seen
    # A doubtful CCD runs again with the failed ones: its reasons went with the marker.
    final = (UnitState.DONE, *(() if reader.stage.sampled else (UnitState.EMPTY,)))
    found = CcdOutcomes()
    for ccd in range(session.context.sizes["ccd"]):
        if how.stop():
            raise UnitInterrupted
        how.guard()
        how.advance(ccd)
        if how.keep and how.keep[ccd] in final:
            found.states.append(how.keep[ccd])
            continue
        before = [states[ccd] for states in upstream]
        here: UnitState | Reason | Verdict = _state_before(reader.roles(ccd), before, reader.stage)
        if here is UnitState.PENDING:
            here = _run_ccd(ccd, reader, writer, meter, before, how)
        if not isinstance(here, Verdict):
            writer.leave_empty(ccd, reader.roles(ccd))
        found.add(reader, ccd, here)
    found.pool(reader, writer)
    return found


def _states_of(session: Session, key: Key) -> Sequence[int]:
    """States of the CCDs in a unit that is done: from its marker, or from the books."""
    marker = read_marker(session.context.run, key)
    if marker is not None:
        return marker.states
    stored, _ = session.of_run("ccds/state")
    table = np.asarray(stored.array[key[1]])
    states: list[int] = table[:, STAGE_NAMES.index(key[0])].tolist()
    if not any(states):  # a slow file system may lag
        msg = f"the marker of {key[0]} of exposure {key[1]} is not to be seen yet"
        raise FileNotFoundError(msg)
    return states


def _state_before(roles: np.ndarray, before: list[int], stage: Stage) -> UnitState:
    """EMPTY or BLOCKED where there is nothing to run, else PENDING."""
    done = [UnitState(state).usable for state in before]
    if stage.needs_any and any(done):
        return UnitState.PENDING
    if not (roles != Role.EMPTY).any():
        return UnitState.EMPTY
    if all(done) and not stage.needs_any:
        return UnitState.PENDING
    return UnitState.EMPTY if stage.sampled else UnitState.BLOCKED


def _run_ccd(
    ccd: int,
    reader: ExposureReader,
    writer: ExposureWriter,
    meter: Meter,
    before: list[int],
    how: Mapped,
) -> Verdict | Reason:
    try:
        inputs = reader.ccd(ccd)
        if reader.stage.needs_any:
            names = (f"{STATES}{need}" for need in reader.stage.needs)
            inputs = inputs.assign(dict(zip(names, before, strict=True)))
        with meter.in_stage():
            results = reader.stage.run(inputs, reader.session.context)
        writer.take(ccd, results)
    except Exception as error:
        if not how.is_failure(error):
            raise
        return explain(error)
    verdict: Verdict = results.attrs.get(VERDICT, Verdict())
    return verdict


def map_exposure(
    reader: ExposureReader, writer: ExposureWriter, meter: Meter, how: Mapped
) -> CcdOutcomes:
    """Run a stage that takes all CCDs at once, and let every CCD pass or not.

    A CCD without objects gets its share of the result too. Where the stage fails, every CCD that
    holds objects failed.
    """
    roles = [reader.roles(ccd) for ccd in range(reader.session.context.sizes["ccd"])]
    held = [bool((role != Role.EMPTY).any()) for role in roles]
    if how.stop():
        raise UnitInterrupted
    results = _run_exposure(reader, writer, meter, how) if any(held) else None
    found = CcdOutcomes()
    for ccd, role in enumerate(roles):
        here: UnitState | Reason | Verdict = UnitState.EMPTY
        if isinstance(results, xr.Dataset):
            here = _release(reader, results.isel(ccd=ccd), meter)
        elif results is not None and held[ccd]:
            here = results
        if not isinstance(here, Verdict):
            writer.leave_empty(ccd, role)
        found.add(reader, ccd, here)
    found.pool(reader, writer)
    return found


def _run_exposure(
    reader: ExposureReader, writer: ExposureWriter, meter: Meter, how: Mapped
) -> xr.Dataset | Reason:
    """What the stage took and returned, or why it failed."""
    how.checkpoint.path.parent.mkdir(exist_ok=True)
    context = replace(reader.session.context, checkpoint=how.checkpoint)
    try:
        inputs = reader.whole()
        with meter.in_stage():
            results = reader.stage.run(inputs, context)
        writer.take_whole(results)
    except Exception as error:
        if not how.is_failure(error):
            raise
        return explain(error)
    return inputs.merge(results)


def _release(reader: ExposureReader, ccd: xr.Dataset, meter: Meter) -> Verdict | Reason:
    """The verdict on a CCD with what was found for its exposure, or why it does not pass."""
    try:
        with meter.in_stage():
            if reader.stage.release is not None:
                return reader.stage.release(ccd, reader.session.context)
    except Exception as error:  # noqa: BLE001 (a failing CCD is quarantined with its reason)
        return explain(error)
    return Verdict()


def explain(error: BaseException) -> Reason:
    """Type, message and the end of the traceback of an error."""
    text = "".join(traceback.format_exception(error)).strip()
    return type(error).__name__, str(error), text[-TRACEBACK_LENGTH:]


def failure_of(reader: ExposureReader, ccd: int, reason: Reason) -> Failure:
    """A CCD's entry among the failures of its unit."""
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


def _doubtful(reader: ExposureReader, ccd: int, doubt: Doubt) -> DoubtfulCcd:
    """A CCD's entry among the doubts of its unit."""
    return DoubtfulCcd(
        stage=reader.stage.name,
        exposure=reader.exposure,
        exposure_id=reader.exposure_id,
        ccd=ccd,
        ccd_id=reader.ccd_id(ccd),
        check=doubt.check,
        message=doubt.message,
    )
