"""What a run tells while it goes: typed events. Bar and log are subscribers like any other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from psfscale.pipeline.ledger.marker import Failure

__all__ = [
    "CcdFailed",
    "ClusterLost",
    "Event",
    "Notice",
    "Observer",
    "RunFinished",
    "RunStarted",
    "UnitAdvanced",
    "UnitDied",
    "UnitFinished",
    "UnitSubmitted",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something happened at `time` (Unix, seconds)."""

    time: float = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStarted(Event):
    """The plan is made and the run store stands.

    Attributes
    ----------
    run : path of the run store
    n_units : to do now
    n_done : done before
    steps : CCDs to go over, by stage; one CCD in one stage is a step
    """

    run: str
    n_units: int
    n_done: int
    steps: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice(Event):
    """Something that who started the run should know, once."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitSubmitted(Event):
    """A unit was handed to the executor."""

    stage: str
    exposure: int
    attempt: int
    alone: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitAdvanced(Event):
    """A running unit has gone over some of its CCDs; told every few seconds, and not logged.

    Attributes
    ----------
    stage, exposure : the unit
    n_ccds : gone over so far
    """

    stage: str
    exposure: int
    n_ccds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitFinished(Event):
    """A unit has its marker.

    Attributes
    ----------
    stage, exposure, exposure_id : the unit
    n_done, n_empty, n_failed, n_blocked, n_doubtful : CCDs by state
    seconds, cpu_seconds : wall time and CPU time
    peak_memory : largest resident memory of its process meanwhile [byte]
    host : that ran it
    """

    stage: str
    exposure: int
    exposure_id: str
    n_done: int
    n_empty: int
    n_failed: int
    n_blocked: int
    seconds: float
    cpu_seconds: float
    peak_memory: int
    host: str
    n_doubtful: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class CcdFailed(Event):
    """A CCD was quarantined."""

    stage: str
    exposure_id: str
    ccd_id: int
    reason: str

    @classmethod
    def of(cls, failure: Failure) -> Self:
        """As a unit's marker tells it."""
        return cls(
            stage=failure.stage,
            exposure_id=failure.exposure_id,
            ccd_id=failure.ccd_id,
            reason=f"{failure.type}: {failure.message}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitDied(Event):
    """A unit's process died under it."""

    stage: str
    exposure: int
    n_deaths: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterLost(Event):
    """The executor is given up and built anew."""

    reason: str
    n_restarts: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFinished(Event):
    """The driver is about to end.

    Attributes
    ----------
    n_units : finished by this driver
    n_left : still to do
    reason : why it ends
    seconds : wall time
    peak_memory : of the driver's process [byte]
    """

    n_units: int
    n_left: int
    reason: str
    seconds: float
    peak_memory: int


Observer = Callable[[Event], None]
"""What a subscriber is: any callable of one event."""
