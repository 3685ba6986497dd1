"""How a run stands, read from its store alone: no cluster, no driver."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from psfscale.arrays import USABLE, UnitState
from psfscale.errors import StoreError
from psfscale.pipeline.ledger.journal import History, begun_units
from psfscale.pipeline.ledger.lease import read_holder
from psfscale.pipeline.ledger.marker import DoubtfulCcd, Failure, Key, Marker, read_markers
from psfscale.pipeline.ledger.table import Known, count_ccds, read_known, stages_in
from psfscale.pipeline.stages.registry import DECLARED
from psfscale.pipeline.state.costs import HostCost, StageCost, host_costs, stage_costs
from psfscale.store.stores import attributes_of, open_root, values_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import zarr

UNIT_STATES = ("done", "failed", "running", "interrupted", "changed", "pending")


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast a run goes, from when its units ended.

    Attributes
    ----------
    n_left : units to do
    rate : units a second over the last quarter of an hour of work; 0 where nothing has ended
    """

    n_left: int
    rate: float

    @property
    def seconds_left(self) -> float | None:
        """At this rate; None where it is not known."""
        if not self.n_left:
            return 0.0
        return self.n_left / self.rate if self.rate else None

    def as_dict(self) -> dict[str, float | int | None]:
        """Plain values, for JSON."""
        left = self.seconds_left
        return {
            "n_left": self.n_left,
            "units_per_second": round(self.rate, 6),
            "seconds_left": None if left is None else round(left, 1),
        }

    def __str__(self) -> str:
        left = self.seconds_left
        if left is None:
            return f"{self.n_left} units to do"
        told = f", {timedelta(seconds=round(left))} left at this rate"
        return f"{self.n_left} units to do, {self.rate:.3g} units a second{told}"


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
    doubts : of all doubtful CCDs
    costs : per stage, what its finished units took
    hosts : per host, what it gave to them
    pace : how fast it goes
    """

    run: Path
    driver: Literal["running", "stale", "none"]
    holder: str
    units: dict[str, dict[str, int]]
    ccds: dict[str, dict[str, int]]
    deaths: dict[str, list[str]]
    failures: tuple[Failure, ...]
    doubts: tuple[DoubtfulCcd, ...]
    costs: dict[str, StageCost]
    hosts: dict[str, HostCost]
    pace: Pace

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
            "costs": {name: cost.as_dict() for name, cost in self.costs.items()},
            "hosts": {name: cost.as_dict() for name, cost in self.hosts.items()},
            "pace": self.pace.as_dict(),
            "deaths": self.deaths,
            "failures": [asdict(failure) for failure in self.failures],
            "doubts": [asdict(doubt) for doubt in self.doubts],
        }

    def __str__(self) -> str:
        lines = [f"{self.run}: {self._driver_text()}"]
        if self.driver == "running":
            lines.append(str(self.pace))
        lines.append("units     " + "".join(f"{name:>12}" for name in UNIT_STATES))
        for stage, states in self.units.items():
            lines.append(f"{stage:10}" + "".join(f"{states[name]:12}" for name in UNIT_STATES))
        names = [state.name for state in UnitState if state.ended]
        lines.append("CCDs      " + "".join(f"{name.lower():>12}" for name in names))
        for stage, counts in self.ccds.items():
            lines.append(f"{stage:10}" + "".join(f"{counts[name]:12}" for name in names))
        lines += [f"{stage:10}{cost}" for stage, cost in self.costs.items()]
        lines += [f"host {host}: {cost}" for host, cost in self.hosts.items()]
        lines += [f"{unit} killed its process: {'; '.join(d)}" for unit, d in self.deaths.items()]
        lines += [str(failure) for failure in self.failures]
        lines += [str(doubt) for doubt in self.doubts]
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
    root = open_root(path)
    stages = stages_in(root)
    wanted = values_of(root, "units/wanted")
    begun, known, markers = begun_units(path), read_known(path, stages), read_markers(path)
    done = (known.fingerprints == wanted) & (wanted > 0)
    holder = read_holder(path)
    driver = "none" if holder is None else holder.state
    current = [
        m for m in markers.values() if m.stage in stages and done[m.exposure, stages.index(m.stage)]
    ]
    columns = _columns(stages, root, markers.values())
    columns["objects"] = _objects(root, stages, known)
    return RunStatus(
        run=path,
        driver=driver,
        holder="" if holder is None else f"host {holder.host}, process {holder.pid}",
        units=_units(stages, wanted, known, begun, running=driver == "running"),
        ccds=count_ccds(stages, known, done),
        deaths={f"{k[0]}/{k[1]}": list(h.deaths) for k, h in begun.items() if h.deaths},
        failures=tuple(f for marker in current for f in marker.failures),
        doubts=tuple(doubt for marker in current for doubt in marker.doubts),
        costs=stage_costs(stages, columns, done),
        hosts=host_costs(columns, done),
        pace=Pace(n_left=int(((wanted > 0) & ~done).sum()), rate=_rate(columns["finished"][done])),
    )


def _units(
    stages: list[str],
    wanted: np.ndarray,
    known: Known,
    begun: Mapping[Key, History],
    *,
    running: bool,
) -> dict[str, dict[str, int]]:
    done = (known.fingerprints == wanted) & (wanted > 0)
    bad = np.isin(known.states, (UnitState.QUARANTINED, UnitState.BLOCKED)).any(axis=1)
    changed = (known.fingerprints > 0) & (wanted > 0) & ~done
    held = np.zeros(wanted.shape, bool)
    for stage, exposure in begun:
        if stage in stages and exposure < len(held):
            held[exposure, stages.index(stage)] = True
    held &= (wanted > 0) & ~done
    counts = {
        "done": done & ~bad,
        "failed": done & bad,
        "running": held & running,
        "interrupted": held & (not running),
        "changed": changed & ~held,
        "pending": (wanted > 0) & ~done & ~changed & ~held,
    }
    return {
        name: {state: int(counts[state][:, k].sum()) for state in UNIT_STATES}
        for k, name in enumerate(stages)
        if wanted[:, k].any()
    }


def _objects(root: zarr.Group, stages: list[str], known: Known) -> np.ndarray:
    """Stars or galaxies on the CCDs that every unit did, (exposure, stage); 0 where not known."""
    found = np.zeros(known.fingerprints.shape, np.int64)
    config = attributes_of(root).get("config", {})
    try:
        survey = open_root(Path(config["survey"]))
        counts = {kind: values_of(survey, f"exposures/n_{kind}") for kind in ("stars", "galaxies")}
    except (KeyError, StoreError):  # the survey has gone elsewhere
        return found
    for k, name in enumerate(stages):
        if name in DECLARED and not DECLARED[name].sampled:
            on_ccds = counts[DECLARED[name].objects]
            n = min(len(on_ccds), len(found))
            found[:n, k] = (on_ccds[:n] * np.isin(known.states[:n, :, k], USABLE)).sum(axis=1)
    return found


_NUMBERS = ("seconds", "cpu_seconds", "stage_seconds", "peak_memory")
_OF_MARKERS = ("attempt", "finished", "host", "device")
_RECENT = 900.0
"""Seconds over which a rate is taken."""


def _columns(
    stages: list[str], root: zarr.Group, markers: Iterable[Marker]
) -> dict[str, np.ndarray]:
    """What every unit took, (exposure, stage), from the books and the markers not yet in them."""
    names = (*_NUMBERS, *_OF_MARKERS)
    columns = {name: values_of(root, f"units/{name}") for name in names}
    for marker in markers:
        if marker.stage in stages:
            at = marker.exposure, stages.index(marker.stage)
            for name in _NUMBERS:
                columns[name][at] = getattr(marker.cost, name)
            for name in _OF_MARKERS:
                columns[name][at] = getattr(marker, name)
    return columns


def _rate(ended: np.ndarray) -> float:
    """Units a second, from the times at which units ended, up to the last of them."""
    known = ended[np.isfinite(ended)]
    if known.size < 2:
        return 0.0
    recent = known[known >= known.max() - _RECENT]
    span = float(np.ptp(recent))
    return float((recent.size - 1) / span) if span > 0 else 0.0
