"""The marker of a unit: written last, so that what it names is whole."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from psfscale.arrays import UnitState
from psfscale.pipeline.ledger.files import read_json, write_json
from psfscale.store.layout import STATE_DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Key = tuple[str, int]
"""A unit: (stage, index of its exposure)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a CCD was quarantined.

    Attributes
    ----------
    stage, exposure, exposure_id : the unit
    ccd : index on the ccd axis
    ccd_id : id of the CCD
    type : of the exception
    message : of the exception
    traceback : its last lines
    """

    stage: str
    exposure: int
    exposure_id: str
    ccd: int
    ccd_id: int
    type: str
    message: str
    traceback: str = ""

    def __str__(self) -> str:
        return f"{self.stage} {self.exposure_id} CCD {self.ccd_id}: {self.type}: {self.message}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Marker:
    """What became of a unit.

    Attributes
    ----------
    stage, exposure, exposure_id : the unit
    fingerprint : of all that determined the result
    states : `UnitState` of every CCD
    failures : of the quarantined CCDs
    seconds : wall time of the attempt
    peak_memory : largest resident memory of its process so far [byte]
    host : that ran it
    attempt : 1 for the first
    finished : Unix time
    versions : of the packages it ran with
    """

    stage: str
    exposure: int
    exposure_id: str
    fingerprint: str
    states: tuple[int, ...]
    failures: tuple[Failure, ...] = ()
    seconds: float = 0.0
    peak_memory: int = 0
    host: str = ""
    attempt: int = 1
    finished: float = 0.0
    versions: Mapping[str, str] | None = None

    @property
    def key(self) -> Key:
        """(stage, exposure)."""
        return self.stage, self.exposure

    def count(self, state: UnitState) -> int:
        """CCDs in this state."""
        return self.states.count(int(state))

    @property
    def good(self) -> bool:
        """No CCD failed or was blocked."""
        return not self.count(UnitState.QUARANTINED) and not self.count(UnitState.BLOCKED)


def marker_path(run: Path, key: Key) -> Path:
    """Where the marker of a unit lies."""
    return run / STATE_DIRECTORY / "markers" / key[0] / f"{key[1]}.json"


def write_marker(run: Path, marker: Marker) -> None:
    """Declare the unit finished; its arrays must be written before."""
    write_json(marker_path(run, marker.key), asdict(marker))


def read_marker(run: Path, key: Key) -> Marker | None:
    """The marker of a unit, or None where it is not finished."""
    content = read_json(marker_path(run, key))
    return None if content is None else _marker(content)


def read_markers(run: Path) -> dict[Key, Marker]:
    """Markers of all finished units, in the order of stage and exposure."""
    folder = run / STATE_DIRECTORY / "markers"
    contents = (read_json(path) for path in folder.glob("*/*.json"))
    markers = [_marker(content) for content in contents if content is not None]
    return {marker.key: marker for marker in sorted(markers, key=lambda m: m.key)}


def remove_marker(run: Path, key: Key) -> None:
    """Declare the unit unfinished, before its arrays change."""
    marker_path(run, key).unlink(missing_ok=True)


def _marker(content: dict[str, Any]) -> Marker:
    failures = tuple(Failure(**item) for item in content["failures"])
    return Marker(**{**content, "states": tuple(content["states"]), "failures": failures})
