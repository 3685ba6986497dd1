"""The marker of a unit: written last, so that what it names is whole."""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from psfscale.arrays import UnitState
from psfscale.errors import StoreError
from psfscale.pipeline.ledger.files import read_json, write_json
from psfscale.store.stores import STATE_DIRECTORY

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
class DoubtfulCcd:
    """A quality check that a CCD did not pass.

    Attributes
    ----------
    stage, exposure, exposure_id : the unit
    ccd : index on the ccd axis
    ccd_id : id of the CCD
    check : its name in the ``quality`` section of a run file
    message : value, limit and likely cause
    """

    stage: str
    exposure: int
    exposure_id: str
    ccd: int
    ccd_id: int
    check: str
    message: str

    def __str__(self) -> str:
        return f"{self.stage} {self.exposure_id} CCD {self.ccd_id} is doubtful: {self.message}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a unit took.

    Attributes
    ----------
    seconds : wall time of the attempt
    cpu_seconds : CPU time of its process meanwhile
    stage_seconds : of it, CPU time in the stage's own code
    peak_memory : largest resident memory of its process meanwhile [byte]
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    stage_seconds: float = 0.0
    peak_memory: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Marker:
    """What became of a unit.

    Attributes
    ----------
    stage, exposure, exposure_id : the unit
    fingerprint : of all that determined the result
    states : `UnitState` of every CCD
    failures : of the quarantined CCDs
    doubts : of the doubtful CCDs
    cost : time and memory
    host, device : that ran it
    attempt : 1 for the first
    finished : Unix time
    versions : of the packages it ran with, where they are not those of the driver
    carried : small products that the driver writes for it, in base64, by path
    digest : of all that it stored, `digest_of`; empty in markers of before
    """

    stage: str
    exposure: int
    exposure_id: str
    fingerprint: str
    states: tuple[int, ...]
    failures: tuple[Failure, ...] = ()
    doubts: tuple[DoubtfulCcd, ...] = ()
    cost: Cost = field(default_factory=Cost)
    host: str = ""
    device: str = "cpu"
    attempt: int = 1
    finished: float = 0.0
    versions: Mapping[str, str] | None = None
    carried: Mapping[str, str] | None = None
    digest: str = ""

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

    @property
    def says_more(self) -> bool:
        """Whether it holds what the ledger has no column for, and stays a file."""
        return bool(self.failures or self.doubts or self.versions)


def carry(values: np.ndarray) -> str:
    """An array as text; the type is known to who reads it."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def carried(text: str, dtype: np.dtype[Any]) -> np.ndarray:
    """The values of `carry`, flat."""
    return np.frombuffer(base64.b64decode(text), dtype)


def marker_path(run: Path, key: Key) -> Path:
    """Where the marker of a unit lies."""
    return run / STATE_DIRECTORY / "markers" / key[0] / f"{key[1]}.json"


def write_marker(run: Path, marker: Marker) -> None:
    """Declare the unit finished; its arrays must be written before."""
    content = {f.name: getattr(marker, f.name) for f in fields(marker)}
    content["failures"] = [asdict(failure) for failure in marker.failures]
    content["doubts"] = [asdict(doubt) for doubt in marker.doubts]
    content["cost"] = asdict(marker.cost)
    write_json(marker_path(run, marker.key), content)


def read_marker(run: Path, key: Key) -> Marker | None:
    """The marker of a unit, or None where it has none (not finished, or in the ledger)."""
    return _marker_at(marker_path(run, key))


def _marker_at(path: Path) -> Marker | None:
    content = read_json(path)
    try:
        return None if content is None else _marker(content)
    except (KeyError, TypeError, ValueError) as error:
        msg = f"{path} is damaged ({error!r}); `psfscale verify --repair` runs its unit again"
        raise StoreError(msg) from error


def read_markers(run: Path) -> dict[Key, Marker]:
    """All markers that are files, in the order of stage and exposure.

    They are those of units that the driver has not put into the ledger yet, and of units that
    have more to say than it holds.
    """
    folder = run / STATE_DIRECTORY / "markers"
    found = (_marker_at(path) for path in folder.glob("*/*.json"))
    markers = [marker for marker in found if marker is not None]
    return {marker.key: marker for marker in sorted(markers, key=lambda m: m.key)}


def key_of(path: Path) -> Key:
    """Return the unit whose marker lies at `path`."""
    return path.parent.name, int(path.stem)


def damaged_markers(run: Path) -> list[tuple[Path, str]]:
    """Return the markers that cannot be read, and why."""
    found = []
    for path in sorted((run / STATE_DIRECTORY / "markers").glob("*/*.json")):
        try:
            read_marker(run, key_of(path))
        except StoreError as error:
            found.append((path, str(error)))
    return found


def remove_marker(run: Path, key: Key) -> None:
    """Declare the unit unfinished, before its arrays change."""
    marker_path(run, key).unlink(missing_ok=True)


def _marker(content: dict[str, Any]) -> Marker:
    failures = tuple(Failure(**item) for item in content["failures"])
    doubts = tuple(DoubtfulCcd(**item) for item in content.get("doubts", ()))
    told = {"states": tuple(content["states"]), "failures": failures, "doubts": doubts}
    return Marker(**{**content, **told, "cost": Cost(**content["cost"])})
