"""One attempt at a unit: what a worker is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psfscale.pipeline.ledger.marker import Key

__all__ = ["Task", "overdue"]


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
    sample : exposures whose results the stage gathers
    alone : run it in a process of its own
    timeout : longest it may take [s]
    resources : that its worker should have, by name
    device : where to compute what the settings leave open
    """

    run: str
    stage: str
    exposure: int
    fingerprint: str
    attempt: int
    lease: str
    keep: tuple[int, ...] = ()
    sample: tuple[int, ...] = ()
    alone: bool = False
    timeout: float | None = None
    resources: tuple[tuple[str, float], ...] = ()
    device: str = "auto"

    @property
    def key(self) -> Key:
        """(stage, exposure)."""
        return self.stage, self.exposure


def overdue(task: Task) -> str:
    """What is said of a unit that took too long."""
    return f"took more than {task.timeout:g} s"
