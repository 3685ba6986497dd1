"""Plan = wanted − done: which units remain, decided from the stores alone.

A survey has a hundred thousand units and more, so the plan is a few arrays over (exposure,
stage), and a `Unit` is made when it is looked at.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from psfscale.arrays import USABLE, UnitState
from psfscale.config import fingerprint
from psfscale.pipeline.ledger.marker import Key
from psfscale.pipeline.ledger.table import Known, code, read_known
from psfscale.pipeline.runs.belonging import require_own_survey
from psfscale.pipeline.runs.context import build_context
from psfscale.pipeline.stages.context import RunContext
from psfscale.pipeline.stages.registry import (
    DECLARED,
    GATHERS,
    NEEDS,
    STAGE_NAMES,
    VERSIONS,
    settings_of,
)
from psfscale.store.stores import open_root, values_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
    sample : exposures whose results it gathers
    """

    unit: Unit
    why: Why
    keep: tuple[int, ...] = ()
    sample: tuple[int, ...] = ()


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

    def sample(self, k: int) -> tuple[int, ...]:
        """Exposures whose results the stage number `k` gathers."""
        rows = (self.fingerprints[:, gathered(self.stages, k)] > 0).any(axis=1)
        return tuple(np.flatnonzero(rows).tolist())

    def unit(self, exposure: int, k: int) -> Unit:
        """The unit of an exposure and of the stage number `k`."""
        return Unit(
            stage=self.stages[k],
            exposure=exposure,
            exposure_id=str(self.ids[exposure]),
            fingerprint=_digits(self.fingerprints[exposure, [k]])[0],
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
        return Todo(
            unit=self.wanted.unit(exposure, k), why=name, keep=tuple(keep), sample=self._samples[k]
        )

    @property
    def gathers_anew(self) -> bool:
        """Whether a unit is to run whose results other exposures gather."""
        stages = self.wanted.stages
        columns = [g for k in range(len(stages)) for g in gathered(stages, k)]
        return bool((self.why[:, columns] > 0).any())

    @cached_property
    def _samples(self) -> list[tuple[int, ...]]:
        return [self.wanted.sample(k) for k in range(len(self.wanted.stages))]

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


def plan_run(config: RunConfig, *, retry_failed: bool = False, learn_again: bool = False) -> Plan:
    """What a run of this configuration would do now; writes nothing, needs no cluster.

    Parameters
    ----------
    retry_failed, learn_again : see `remaining`

    Raises
    ------
    ConfigError
        The instrument file or the model's settings are wrong.
    StoreError
        There is no survey store, or the output is the run of another survey.
    """
    context = build_context(config)
    wanted = wanted_units(context)
    n_exposures, n_stages = wanted.fingerprints.shape
    if (config.output / "zarr.json").exists():
        require_own_survey(config.output, config.survey)
        known = padded(read_known(config.output, wanted.stages), n_exposures)
    else:
        known = Known.nothing(n_exposures, context.sizes["ccd"], n_stages)
    return remaining(wanted, known, retry_failed=retry_failed, learn_again=learn_again)


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
    roots = {name: _root_fingerprint(name, context) for name in present}
    table = np.zeros((len(chosen), len(STAGE_NAMES)), np.uint64)
    for k, name in enumerate(STAGE_NAMES):
        here = present.get(name, np.zeros_like(chosen)) & chosen
        if DECLARED[name].sampled:
            here &= here.cumsum() <= context.config.restore.learn_exposures
        needs = needed(STAGE_NAMES, k)
        shared = [_digits(table[table[:, g] > 0, g]) for g in gathered(STAGE_NAMES, k)]
        for exposure in np.flatnonzero(here).tolist():
            before = table[exposure, needs]
            upstream = [*_digits(before[before > 0]), *filter(None, shared)]
            identity = str(ids[exposure]), str(content[exposure])
            table[exposure, k] = code(fingerprint(roots[name], *identity, upstream)[:DIGITS])
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


def _digits(codes: np.ndarray) -> list[str]:
    return [f"{int(one):0{DIGITS}x}" for one in codes]


def needed(stages: Sequence[str], k: int) -> list[int]:
    """Numbers of the stages that the stage number `k` may need, as far as they are known."""
    return [stages.index(name) for name in NEEDS[stages[k]] if name in stages]


def gathered(stages: Sequence[str], k: int) -> list[int]:
    """Numbers of the stages that the stage number `k` gathers."""
    return [stages.index(name) for name in GATHERS[stages[k]] if name in stages]


def downstream(stage: str) -> list[str]:
    """Stages that read, at any remove, what a stage writes."""
    found: list[str] = []
    for name in STAGE_NAMES:
        if {stage, *found} & set(NEEDS[name]):
            found.append(name)
    return found


def remaining(
    wanted: Wanted, known: Known, *, retry_failed: bool, learn_again: bool = False
) -> Plan:
    """Wanted units that are not done, and those downstream of them.

    Parameters
    ----------
    retry_failed : try quarantined CCDs again
    learn_again : have the sampled stages run again, and all that gathers from them; else they
        stand as they are once all have run, also where what they read is made again
    """
    why = np.zeros(wanted.fingerprints.shape, np.uint8)
    sampled = [DECLARED[name].sampled for name in wanted.stages]
    stands = not learn_again and _stands(wanted.fingerprints[:, sampled], known, sampled)
    for k in range(len(wanted.stages)):
        if sampled[k] and stands:
            continue
        needs = [why[:, number] for number in needed(wanted.stages, k)]
        rerun = np.zeros(len(why), bool)
        retried = np.zeros(len(why), bool)
        for need in needs:
            rerun |= (need == _Why.missing) | (need == _Why.changed)
            retried |= need == _Why.failed
        rerun |= bool((why[:, gathered(wanted.stages, k)] > 0).any())
        rerun |= learn_again and sampled[k]
        done = known.fingerprints[:, k]
        if retry_failed:
            retried |= (known.states[..., k] == UnitState.QUARANTINED).any(axis=1)
        why[:, k] = np.where(retried, _Why.failed, 0)
        why[rerun | (done != wanted.fingerprints[:, k]), k] = _Why.changed
        why[done == 0, k] = _Why.missing
        why[wanted.fingerprints[:, k] == 0, k] = 0
    return Plan(wanted=wanted, known=known, why=why)


def _stands(wanted: np.ndarray, known: Known, sampled: list[bool]) -> bool:
    """Whether the sampled stages have all run, and found something."""
    done = known.fingerprints[:, sampled] == wanted
    found = np.isin(known.states[..., sampled], USABLE).any()
    return bool(done[wanted > 0].all() and found)
