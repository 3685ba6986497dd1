"""What a check of a store finds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from psfscale.pipeline.ledger.marker import Key

Repair = Literal["nothing", "restore", "remove", "aggregate"]
"""Put the sealed copy back, remove the file, or make tables and aggregates anew."""


@dataclass(frozen=True, kw_only=True)
class Damage:
    """Something that is not as the run store says.

    Attributes
    ----------
    stage, exposure : the unit whose product it is; empty and -1 where it is no unit's
    reason : what is wrong, with the path
    path : of a file that is no unit's product, in the store
    repair : what a repair does about that file
    """

    stage: str
    exposure: int
    reason: str
    path: str = ""
    repair: Repair = "nothing"

    @property
    def key(self) -> Key:
        """(stage, exposure)."""
        return self.stage, self.exposure

    def __str__(self) -> str:
        return (
            f"{self.stage} of exposure {self.exposure}: {self.reason}"
            if self.stage
            else self.reason
        )


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Result of a check of a store: what was read, and what is not as it should be.

    Attributes
    ----------
    run : path of the store
    n_units : done units, or complete exposures of a survey, whose files were read
    n_objects : files of theirs that were read and checked
    damages : what is wrong
    repaired : what was done about them; empty where nothing was
    what : name of what `n_units` counts
    """

    run: Path
    n_units: int
    n_objects: int
    damages: tuple[Damage, ...]
    repaired: str = ""
    what: str = "units"

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.damages

    def __str__(self) -> str:
        lines = [str(damage) for damage in self.damages]
        lines.append(
            f"{self.n_units} {self.what}, {self.n_objects} stored objects read: "
            f"{len(self.damages) or 'no'} damages"
        )
        if self.damages:
            lines.append(self.repaired or "`psfscale verify --repair` puts right what it can")
        return "\n".join(lines)
