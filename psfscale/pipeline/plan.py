"""Plan = wanted − done: which units remain, decided from the stores alone.

A survey has a hundred thousand units and more, so the plan is a few arrays over (exposure,
stage), and a `Unit` is made when it is looked at.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import IntEnum
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Literal

import numpy as np

from psfscale.arrays import UnitState
from psfscale.config import fingerprint
from psfscale.pipeline.context import RunContext
from psfscale.pipeline.ledger.books import Known, code, read_known
from psfscale.pipeline.ledger.marker import Key
from psfscale.pipeline.stages import DECLARED, NEEDS, STAGE_NAMES, VERSIONS, settings_of
from psfscale.pipeline.storage import values_of
from psfscale.store.layout import open_root

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import zarr

    from psfscale.config import RunConfig

Why = Literal["missing", "changed", "failed"]
DIGITS = 16
"""Hexadecimal digits of a unit's fingerprint."""


class _Why(IntEnum):
    """Why a unit is to run, as the plan's array has it; 0: it is not."""

    missing = 1
    changed = 2
    failed = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """One stage of one exposure.

    Attributes
    ----------
    stage, exposure, exposure_id : what
    fingerprint : of all that determines its result
    """

    stage: str
    exposure: int
    exposure_id: str
    fingerprint: str

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


@dataclass(frozen=True, kw_only=True, eq=False)
class Wanted:
    """All units that a run wants.

    Attributes
    ----------
    stages : names, each after those it needs
    ids : (exposure,) ids
    fingerprints : (exposure, stage) of what is wanted; 0 where nothing is
    n_incomplete : exposures left out because their ingest has not finished
    """

    stages: tuple[str, ...]
    ids: np.ndarray
    fingerprints: np.ndarray
    n_incomplete: int = 0

    def unit(self, exposure: int, k: int) -> Unit:
        """The unit of an exposure and of the stage number `k`."""
        return Unit(
            stage=self.stages[k],
            exposure=exposure,
            exposure_id=str(self.ids[exposure]),
            fingerprint=f"{int(self.fingerprints[exposure, k]):0{DIGITS}x}",
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What a run will do.

    Attributes
    ----------
    wanted : all units
    known : what is done
    why : (exposure, stage), why a unit is to run; 0 where it is not
    """

    wanted: Wanted
    known: Known
    why: np.ndarray

    @property
    def n_exposures(self) -> int:
        """Exposures in the survey store."""
        return len(self.wanted.ids)

    @property
    def n_todo(self) -> int:
        """Units to run."""
        return int((self.why > 0).sum())

    @property
    def n_done(self) -> int:
        """Units that are done already."""
        return int((self.wanted.fingerprints > 0).sum()) - self.n_todo

    @property
    def n_incomplete(self) -> int:
        """Exposures left out because their ingest has not finished."""
        return self.wanted.n_incomplete

    @property
    def todo(self) -> Iterator[Todo]:
        """The units to run, by exposure, each after those it needs."""
        for exposure, k in np.argwhere(self.why > 0).tolist():
            yield self.item(exposure, k)

    def item(self, exposure: int, k: int) -> Todo:
        """What to do in an exposure in the stage number `k`."""
        why = _Why(int(self.why[exposure, k]))
        keep = self.known.states[exposure, :, k].tolist() if why is _Why.failed else ()
        name: Why = why.name  # type: ignore[assignment]
        return Todo(unit=self.wanted.unit(exposure, k), why=name, keep=tuple(keep))

    def counts(self) -> dict[str, dict[str, int]]:
        """Per stage: units ``wanted``, ``done`` and to run, by reason."""
        table = {}
        for k, stage in enumerate(self.wanted.stages):
            n_wanted = int((self.wanted.fingerprints[:, k] > 0).sum())
            if n_wanted:
                found = Counter(self.why[:, k].tolist())
                reasons = {why.name: found[why] for why in _Why}
                done = n_wanted - sum(reasons.values())
                table[stage] = {"wanted": n_wanted, "done": done, **reasons}
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
    wanted = wanted_units(context)
    n_exposures, n_stages = wanted.fingerprints.shape
    if (config.output / "zarr.json").exists():
        known = padded(read_known(config.output, wanted.stages), n_exposures)
    else:
        known = Known.nothing(n_exposures, context.sizes["ccd"], n_stages)
    return remaining(wanted, known, retry_failed=retry_failed)


def padded(known: Known, n_exposures: int) -> Known:
    """What is known of a run store that the survey has outgrown."""
    extra = n_exposures - len(known.fingerprints)
    return Known(
        fingerprints=np.pad(known.fingerprints, ((0, extra), (0, 0))),
        states=np.pad(known.states, ((0, extra), (0, 0), (0, 0))),
    )


def wanted_units(context: RunContext) -> Wanted:
    """All units of a run.

    Raises
    ------
    StoreError
        The survey store says nothing of its exposures.
    """
    root = open_root(context.config.survey)
    ids, content, complete = (
        values_of(root, f"exposures/{name}") for name in ("id", "content", "complete")
    )
    chosen = np.asarray(complete, bool)
    present = _present(root, context, len(chosen))
    roots = {name: _root_fingerprint(name, context) for name in STAGE_NAMES}
    table = np.zeros((len(chosen), len(STAGE_NAMES)), np.uint64)
    for exposure in np.flatnonzero(chosen).tolist():
        names = [name for name, here in present.items() if here[exposure]]
        identity = str(ids[exposure]), str(content[exposure])
        prints = _fingerprints(identity, names, roots)
        table[exposure] = [code(prints[n]) if n in prints else 0 for n in STAGE_NAMES]
    return Wanted(
        stages=STAGE_NAMES, ids=ids, fingerprints=table, n_incomplete=int((~chosen).sum())
    )


def _present(root: zarr.Group, context: RunContext, n_exposures: int) -> dict[str, np.ndarray]:
    """Of every wanted stage, which exposures may hold objects for it."""
    stars = np.ones(n_exposures, bool)  # without any, that is worth a failure
    found = {}
    for name, declared in DECLARED.items():
        if declared.wanted(context):
            of_galaxies = declared.objects == "galaxies"
            galaxies = values_of(root, "exposures/n_galaxies") if of_galaxies else None
            found[name] = stars if galaxies is None else galaxies.sum(axis=1) > 0
    return found


def _root_fingerprint(name: str, context: RunContext) -> str:
    instrument = context.instrument.model_dump(mode="json")
    return fingerprint(name, VERSIONS[name], settings_of(name, context), instrument)


def _fingerprints(
    identity: tuple[str, str], names: Sequence[str], roots: Mapping[str, str]
) -> dict[str, str]:
    """Of the units of one exposure; `identity` is its id and the digest of its content."""
    found: dict[str, str] = {}
    for name in names:
        upstream = [found[need] for need in NEEDS[name]]
        found[name] = fingerprint(roots[name], *identity, upstream)[:DIGITS]
    return found


def downstream(stage: str) -> list[str]:
    """Stages that read, at any remove, what a stage writes."""
    found: list[str] = []
    for name in STAGE_NAMES:
        if {stage, *found} & set(NEEDS[name]):
            found.append(name)
    return found


def remaining(wanted: Wanted, known: Known, *, retry_failed: bool) -> Plan:
    """Wanted units that are not done, and those downstream of them."""
    why = np.zeros(wanted.fingerprints.shape, np.uint8)
    for k, name in enumerate(wanted.stages):
        needs = [why[:, wanted.stages.index(need)] for need in NEEDS[name]]
        rerun = np.zeros(len(why), bool)
        retried = np.zeros(len(why), bool)
        for need in needs:
            rerun |= (need == _Why.missing) | (need == _Why.changed)
            retried |= need == _Why.failed
        done = known.fingerprints[:, k]
        if retry_failed:
            retried |= (known.states[..., k] == UnitState.QUARANTINED).any(axis=1)
        why[:, k] = np.where(retried, _Why.failed, 0)
        why[rerun | (done != wanted.fingerprints[:, k]), k] = _Why.changed
        why[done == 0, k] = _Why.missing
        why[wanted.fingerprints[:, k] == 0, k] = 0
    return Plan(wanted=wanted, known=known, why=why)


class Frontier:
    """Which of the units to do may run now: those that need nothing unfinished.

    Exposures go in order, and an exposure is finished before a later one is begun, so that
    products become whole early and the inputs of a stage are still warm. Units of an exposure
    that need only one another are handed out together, to be run one after the other.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._stages = plan.wanted.stages
        self._left = plan.why > 0
        self._flying = np.zeros(self._left.shape, bool)
        self._n_left = int(self._left.sum())
        self._next = 0
        self._again: list[int] = []

    def __len__(self) -> int:
        """Units not finished yet."""
        return self._n_left

    def take(self) -> list[Todo]:
        """Units of the next exposure that may run, in order; none where all such are taken."""
        while (exposure := self._next_exposure()) is not None:
            chosen = self._ready(exposure)
            if chosen:
                self._flying[exposure, chosen] = True
                return [self._plan.item(exposure, k) for k in chosen]
        return []

    def give_back(self, key: Key) -> None:
        """A unit that was taken is to run again."""
        self._flying[key[1], self._stages.index(key[0])] = False
        heappush(self._again, key[1])

    def finish(self, key: Key) -> None:
        """A unit that was taken is finished; those that waited for it alone may run."""
        place = key[1], self._stages.index(key[0])
        self._left[place] = self._flying[place] = False
        self._n_left -= 1
        if (self._left[key[1]] & ~self._flying[key[1]]).any():
            heappush(self._again, key[1])

    def _next_exposure(self) -> int | None:
        if self._again:
            return heappop(self._again)
        n = len(self._left)
        while self._next < n and not self._left[self._next].any():
            self._next += 1
        if self._next == n:
            return None
        self._next += 1
        return self._next - 1

    def _ready(self, exposure: int) -> list[int]:
        left, flying = self._left[exposure], self._flying[exposure]
        chosen: list[int] = []
        for k in np.flatnonzero(left & ~flying).tolist():
            needs = [self._stages.index(need) for need in NEEDS[self._stages[k]]]
            if all(not left[need] or need in chosen for need in needs):
                chosen.append(k)
        return chosen
