"""How a run stands, read from its store alone: no cluster, no driver."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from psfscale.arrays import UnitState
from psfscale.pipeline.ledger.journal import History, begun_units
from psfscale.pipeline.ledger.lease import read_holder
from psfscale.pipeline.ledger.marker import Failure, Key, Marker, read_markers
from psfscale.pipeline.ledger.table import read_plan
from psfscale.pipeline.stages import STAGE_NAMES
from psfscale.store.layout import open_root

if TYPE_CHECKING:
    from collections.abc import Mapping

UNIT_STATES = ("done", "failed", "running", "interrupted", "changed", "pending")


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """How a run stands.

    Attributes
    ----------
    run : path of the run store
    driver : ``running``; ``stale`` where a driver died; ``none`` where the last one ended
    holder : host and process of a driver that runs or died, else empty
    units : per stage, units by state: ``done``, ``failed`` (done, but with CCDs that are
        quarantined or blocked), ``running``, ``interrupted`` (begun, not ended), ``changed``
        (done under other settings or input) and ``pending``
    ccds : per stage, CCDs of finished units by `UnitState`
    deaths : per unit ``stage/exposure`` that killed its process, the reasons
    failures : of all quarantined CCDs
    seconds : per stage, mean wall time of a unit
    """

    run: Path
    driver: Literal["running", "stale", "none"]
    holder: str
    units: dict[str, dict[str, int]]
    ccds: dict[str, dict[str, int]]
    deaths: dict[str, list[str]]
    failures: tuple[Failure, ...]
    seconds: dict[str, float]

    @property
    def finished(self) -> bool:
        """Whether every wanted unit is done."""
        left = ("running", "interrupted", "changed", "pending")
        return all(not states[name] for states in self.units.values() for name in left)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        return {
            "run": str(self.run),
            "driver": self.driver,
            "holder": self.holder,
            "finished": self.finished,
            "units": self.units,
            "ccds": self.ccds,
            "seconds": self.seconds,
            "deaths": self.deaths,
            "failures": [asdict(failure) for failure in self.failures],
        }

    def __str__(self) -> str:
        lines = [f"{self.run}: {self._driver_text()}"]
        lines.append("units     " + "".join(f"{name:>12}" for name in UNIT_STATES))
        for stage, states in self.units.items():
            lines.append(f"{stage:10}" + "".join(f"{states[name]:12}" for name in UNIT_STATES))
        names = [state.name for state in UnitState if state is not UnitState.PENDING]
        lines.append("CCDs      " + "".join(f"{name.lower():>12}" for name in names))
        for stage, counts in self.ccds.items():
            lines.append(f"{stage:10}" + "".join(f"{counts[name]:12}" for name in names))
        lines += [f"{unit} killed its process: {'; '.join(d)}" for unit, d in self.deaths.items()]
        lines += [str(failure) for failure in self.failures]
        return "\n".join(lines)

    def _driver_text(self) -> str:
        if self.driver == "running":
            return f"running on {self.holder}"
        if self.driver == "stale":
            return f"its driver died ({self.holder}); the same command resumes"
        return "finished" if self.finished else "not finished; the same command resumes"


def status(path: Path) -> RunStatus:
    """How the run at `path` stands.

    Raises
    ------
    StoreError
        There is no run store at `path`.
    """
    path = Path(path)
    open_root(path)
    wanted, markers, begun = read_plan(path), read_markers(path), begun_units(path)
    holder = read_holder(path)
    driver = "none" if holder is None else holder.state
    current = {k: m for k, m in markers.items() if wanted.get(k) == m.fingerprint}
    stages = [name for name in STAGE_NAMES if any(key[0] == name for key in wanted)]
    return RunStatus(
        run=path,
        driver=driver,
        holder="" if holder is None else f"host {holder.host}, process {holder.pid}",
        units=_units(wanted, markers, begun, running=driver == "running"),
        ccds={name: _ccds(name, current) for name in stages},
        deaths={f"{k[0]}/{k[1]}": list(h.deaths) for k, h in begun.items() if h.deaths},
        failures=tuple(f for marker in current.values() for f in marker.failures),
        seconds={name: _mean_seconds(name, current) for name in stages},
    )


def _units(
    wanted: Mapping[Key, str],
    markers: Mapping[Key, Marker],
    begun: Mapping[Key, History],
    *,
    running: bool,
) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for key, expected in wanted.items():
        marker = markers.get(key)
        if marker is not None and marker.fingerprint == expected:
            state = "done" if marker.good else "failed"
        elif key in begun:
            state = "running" if running else "interrupted"
        else:
            state = "pending" if marker is None else "changed"
        counts.setdefault(key[0], dict.fromkeys(UNIT_STATES, 0))[state] += 1
    return {name: counts[name] for name in STAGE_NAMES if name in counts}


def _ccds(stage: str, markers: Mapping[Key, Marker]) -> dict[str, int]:
    states = Counter(s for m in markers.values() if m.stage == stage for s in m.states)
    return {state.name: states[state] for state in UnitState if state is not UnitState.PENDING}


def _mean_seconds(stage: str, markers: Mapping[Key, Marker]) -> float:
    seconds = [m.seconds for m in markers.values() if m.stage == stage]
    return round(sum(seconds) / len(seconds), 3) if seconds else 0.0
