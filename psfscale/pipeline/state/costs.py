"""What finished units took, by stage and by host, as sums that add."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from psfscale.pipeline.stages.registry import DECLARED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, kw_only=True)
class _Cost:
    """What finished units took.

    Attributes
    ----------
    n_units : finished
    seconds, cpu_seconds : wall and CPU time, summed over units
    peak_memory : largest of any unit [byte]
    """

    n_units: int
    seconds: float
    cpu_seconds: float
    peak_memory: int

    def __add__(self, other: Self) -> Self:
        """Of the units of both: peaks do not add, and what is a set is that of both."""
        return type(self)(
            **{
                field.name: _LAWS.get(field.name, _sum)(
                    getattr(self, field.name), getattr(other, field.name)
                )
                for field in fields(self)
            }
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class StageCost(_Cost):
    """What the finished units of a stage took.

    Attributes
    ----------
    n_units, seconds, cpu_seconds, peak_memory : as of every cost
    stage_seconds : CPU time in the stage's own code; the rest is the pipeline's
    n_attempts : summed over units
    n_objects : stars or galaxies on the CCDs that were done; 0 where it is not told
    objects : which of the two
    """

    stage_seconds: float
    n_attempts: int
    n_objects: int
    objects: str

    def __str__(self) -> str:
        told = (
            f"{self.n_units} units in {self.n_attempts} attempts, {self.cpu_seconds:.1f} CPU s, "
            f"{self.seconds / self.n_units:.2f} s a unit, peak {self.peak_memory / 2**20:.0f} MiB"
        )
        if not (self.n_objects and self.cpu_seconds):
            return told
        rate = self.n_objects / self.cpu_seconds
        return f"{told}, {self.n_objects:,} {self.objects}, {rate:.3g} a CPU second"


@dataclass(frozen=True, kw_only=True)
class HostCost(_Cost):
    """What a host gave to the finished units.

    Attributes
    ----------
    n_units, seconds, cpu_seconds, peak_memory : as of every cost
    devices : that computed them
    """

    devices: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.n_units} units, {self.cpu_seconds:.1f} CPU s in {self.seconds:.1f} s, "
            f"peak {self.peak_memory / 2**20:.0f} MiB, on {', '.join(self.devices)}"
        )


def _sum(one: float, other: float) -> float:
    return round(one + other, 3)


def _union(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({*one, *other}))


_LAWS: dict[str, Any] = {"peak_memory": max, "devices": _union, "objects": lambda one, _: one}


C = TypeVar("C", bound=_Cost)


def added(parts: Iterable[Mapping[str, C]]) -> dict[str, C]:
    """Costs by name, each the sum of all of that name."""
    total: dict[str, C] = {}
    for part in parts:
        for name, cost in part.items():
            total[name] = total[name] + cost if name in total else cost
    return total


def stage_costs(
    stages: list[str], columns: Mapping[str, np.ndarray], done: np.ndarray
) -> dict[str, StageCost]:
    """By stage, from what every unit took, (exposure, stage)."""
    return {
        name: StageCost(
            **_common({key: values[done[:, k], k] for key, values in columns.items()}),
            stage_seconds=_total(columns["stage_seconds"][done[:, k], k]),
            n_attempts=int(columns["attempt"][done[:, k], k].sum()),
            n_objects=int(columns["objects"][done[:, k], k].sum()),
            objects=DECLARED[name].objects if name in DECLARED else "",
        )
        for k, name in enumerate(stages)
        if done[:, k].any()
    }


def host_costs(columns: Mapping[str, np.ndarray], done: np.ndarray) -> dict[str, HostCost]:
    """By host, from what every unit took, (exposure, stage)."""
    hosts = columns["host"][done].astype(object)
    return {
        str(host): HostCost(
            **_common({key: values[done][hosts == host] for key, values in columns.items()}),
            devices=tuple(sorted({str(d) for d in columns["device"][done][hosts == host]})),
        )
        for host in np.unique(hosts)
    }


def _common(units: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {
        "n_units": len(units["seconds"]),
        "seconds": _total(units["seconds"]),
        "cpu_seconds": _total(units["cpu_seconds"]),
        "peak_memory": int(units["peak_memory"].max()),
    }


def _total(values: np.ndarray) -> float:
    return round(float(np.nansum(values, dtype=np.float64)), 3)
