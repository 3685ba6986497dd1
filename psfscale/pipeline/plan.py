"""Plan = wanted − done: which units remain, decided from the stores alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from psfscale.arrays import UnitState
from psfscale.config import fingerprint
from psfscale.pipeline.context import RunContext
from psfscale.pipeline.ledger.marker import Key, Marker, read_markers
from psfscale.pipeline.stages import NEEDS, STAGE_NAMES, VERSIONS, settings_of
from psfscale.pipeline.storage import values_of
from psfscale.store.layout import open_root

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from psfscale.config import RunConfig

Why = Literal["missing", "changed", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """One stage of one exposure.

    Attributes
    ----------
    stage, exposure, exposure_id : what
    fingerprint : of all that determines its result
    needs : units whose results it reads
    """

    stage: str
    exposure: int
    exposure_id: str
    fingerprint: str
    needs: tuple[Key, ...]

    @property
    def key(self) -> Key:
        """(stage, exposure)."""
        return self.stage, self.exposure


@dataclass(frozen=True, kw_only=True, slots=True)
class Todo:
    """A unit to run, and why.

    Attributes
    ----------
    unit : what
    why : ``missing``: never finished; ``changed``: finished under other settings, input or
        code; ``failed``: some of its CCDs failed and are tried again
    keep : states of all CCDs where only the failed ones are tried, else empty
    """

    unit: Unit
    why: Why
    keep: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will do.

    Attributes
    ----------
    wanted : all units, by exposure, each after those it needs
    todo : those to run
    n_exposures : in the survey store
    n_incomplete : exposures left out because their ingest has not finished
    """

    wanted: tuple[Unit, ...]
    todo: tuple[Todo, ...]
    n_exposures: int
    n_incomplete: int = 0

    @property
    def n_done(self) -> int:
        """Units that are done already."""
        return len(self.wanted) - len(self.todo)

    def counts(self) -> dict[str, dict[str, int]]:
        """Per stage: units ``wanted``, ``done`` and to run, by reason."""
        wanted = Counter(unit.stage for unit in self.wanted)
        why = Counter((item.unit.stage, item.why) for item in self.todo)
        table = {}
        for stage in (s for s in STAGE_NAMES if s in wanted):
            reasons = {w: why[stage, w] for w in ("missing", "changed", "failed")}
            done = wanted[stage] - sum(reasons.values())
            table[stage] = {"wanted": wanted[stage], "done": done, **reasons}
        return table

    def __str__(self) -> str:
        lines = [f"{'stage':10}{'wanted':>8}{'done':>8}{'missing':>9}{'changed':>9}{'retried':>9}"]
        lines += [
            f"{stage:10}{n['wanted']:8}{n['done']:8}{n['missing']:9}{n['changed']:9}{n['failed']:9}"
            for stage, n in self.counts().items()
        ]
        if self.n_incomplete:
            lines.append(f"{self.n_incomplete} exposures are not wholly ingested and left out")
        return "\n".join(lines)


def plan_run(config: RunConfig, *, retry_failed: bool = False) -> Plan:
    """What a run of this configuration would do now; writes nothing, needs no cluster.

    Raises
    ------
    ConfigError
        The instrument file or the model's settings are wrong.
    StoreError
        There is no survey store.
    """
    context = RunContext.build(config)
    wanted, n_incomplete = wanted_units(context)
    markers = read_markers(config.output)
    return Plan(
        wanted=wanted,
        todo=remaining(wanted, markers, retry_failed=retry_failed),
        n_exposures=context.sizes["exposure"],
        n_incomplete=n_incomplete,
    )


def wanted_units(context: RunContext) -> tuple[tuple[Unit, ...], int]:
    """All units of a run, by exposure, and the number of incomplete exposures left out.

    Raises
    ------
    StoreError
        The survey store says nothing of its exposures.
    """
    root = open_root(context.config.survey)
    read = {k: values_of(root, f"exposures/{k}") for k in ("id", "content", "complete")}
    complete = np.asarray(read["complete"], bool)
    with_galaxies = np.zeros(complete.shape, bool)
    if context.wants_galaxy_psfs:
        with_galaxies = values_of(root, "exposures/n_galaxies").sum(axis=1) > 0
    roots = {name: _root_fingerprint(name, context) for name in STAGE_NAMES}
    units: list[Unit] = []
    for exposure in np.flatnonzero(complete):
        names = [n for n in STAGE_NAMES if n != "psf" or with_galaxies[exposure]]
        identity = str(read["id"][exposure]), str(read["content"][exposure])
        units.extend(_units_of(int(exposure), identity, names, roots))
    return tuple(units), int((~complete).sum())


def _root_fingerprint(name: str, context: RunContext) -> str:
    instrument = context.instrument.model_dump(mode="json")
    return fingerprint(name, VERSIONS[name], settings_of(name, context), instrument)


def _units_of(
    exposure: int, identity: tuple[str, str], names: list[str], roots: Mapping[str, str]
) -> Iterable[Unit]:
    """The units of one exposure; `identity` is its id and the digest of its content."""
    done: dict[str, str] = {}
    for name in names:
        upstream = [done[need] for need in NEEDS[name]]
        done[name] = fingerprint(roots[name], *identity, upstream)
        yield Unit(
            stage=name,
            exposure=exposure,
            exposure_id=identity[0],
            fingerprint=done[name],
            needs=tuple((need, exposure) for need in NEEDS[name]),
        )


def remaining(
    wanted: Iterable[Unit], markers: Mapping[Key, Marker], *, retry_failed: bool
) -> tuple[Todo, ...]:
    """Wanted units without a valid marker, and those downstream of them.

    Units are expected after those they need.
    """
    todo: dict[Key, Todo] = {}
    for unit in wanted:
        why = _why(
            unit, markers.get(unit.key), [todo.get(need) for need in unit.needs], retry_failed
        )
        if why is not None:
            keep = markers[unit.key].states if why == "failed" else ()
            todo[unit.key] = Todo(unit=unit, why=why, keep=keep)
    return tuple(todo.values())


def _why(
    unit: Unit, marker: Marker | None, upstream: list[Todo | None], retry_failed: bool
) -> Why | None:
    if marker is None:
        return "missing"
    rerun: Any = {item.why for item in upstream if item is not None}
    if marker.fingerprint != unit.fingerprint or rerun & {"missing", "changed"}:
        return "changed"
    failed = marker.count(UnitState.QUARANTINED) > 0
    return "failed" if rerun or (retry_failed and failed) else None


class Frontier:
    """Which of the units to do may run now: those that need nothing unfinished.

    Exposures go in order, and an exposure is finished before a later one is begun, so that
    products become whole early and the inputs of a stage are still warm.
    """

    def __init__(self, todo: Iterable[Todo]) -> None:
        self._todo = {item.unit.key: item for item in todo}
        self._waits = {
            key: sum(need in self._todo for need in item.unit.needs)
            for key, item in self._todo.items()
        }
        self._ready = [self._rank(key) for key, n in self._waits.items() if n == 0]
        heapify(self._ready)

    def __len__(self) -> int:
        """Units not finished yet."""
        return len(self._todo)

    def take(self) -> Todo | None:
        """The next unit that may run; None where all such are taken."""
        if not self._ready:
            return None
        exposure, rank = heappop(self._ready)
        return self._todo[STAGE_NAMES[rank], exposure]

    def give_back(self, key: Key) -> None:
        """A unit that was taken is to run again."""
        heappush(self._ready, self._rank(key))

    def finish(self, key: Key) -> None:
        """A unit that was taken is finished; those that waited for it alone may run."""
        del self._todo[key]
        for name in STAGE_NAMES:
            other = (name, key[1])
            if other in self._todo and key in self._todo[other].unit.needs:
                self._waits[other] -= 1
                if self._waits[other] == 0:
                    heappush(self._ready, self._rank(other))

    @staticmethod
    def _rank(key: Key) -> tuple[int, int]:
        return key[1], STAGE_NAMES.index(key[0])
