"""The tally of a part of a survey, and how tallies merge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from psfscale.arrays import ObjectFlag
from psfscale.errors import InputError
from psfscale.metrics.tables.exact import carried, split
from psfscale.metrics.tables.histogram import LARGEST, N_BINS, bin_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psfscale.metrics.tables.axes import Axis

MOMENTS = ("value", "square", "flux", "flux_value")
"""Sums that are kept of every quantity, over the objects that have it."""
COUNTS = ("objects", *(flag.name or "" for flag in ObjectFlag))
"""What is counted of all objects, whether measured or not."""
BRIGHTEST = 2.0**30
"""Weight by flux stops growing here [electron]."""
_LOW = "/low"
_HIGH = "/high"


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What is known of the objects of some exposures, as whole numbers that add.

    Attributes
    ----------
    exposures : ids of the exposures in it, sorted
    arrays : by name; those that end in ``high`` and ``low`` are the halves of exact sums
    """

    exposures: tuple[str, ...]
    arrays: Mapping[str, np.ndarray]

    def same(self, other: Tally) -> bool:
        """Whether both say the same of the same exposures."""
        return (
            self.exposures == other.exposures
            and self.arrays.keys() == other.arrays.keys()
            and all(np.array_equal(values, other.arrays[k]) for k, values in self.arrays.items())
        )


NOTHING = Tally(exposures=(), arrays={})
"""Of no exposure at all."""


def merge(one: Tally, other: Tally) -> Tally:
    """The tally of the exposures of both; that of a tally with itself is itself.

    Raises
    ------
    InputError
        They share exposures without being one and the same, or count over different cells.
    """
    if one.same(other):
        return one
    shared = sorted(set(one.exposures) & set(other.exposures))
    if shared:
        msg = f"{len(shared)} exposures are in both tallies ({', '.join(shared[:3])}, ...)"
        raise InputError(msg)
    exposures = tuple(sorted((*one.exposures, *other.exposures)))
    return Tally(exposures=exposures, arrays=added(one.arrays, other.arrays))


def added(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sums of arrays by name; a name that only one has is that one's.

    Raises
    ------
    InputError
        Arrays of one name differ in shape.
    """
    total = dict(one)
    for name, values in other.items():
        if name in total and total[name].shape != values.shape:
            msg = (
                f"{name} counts over {total[name].shape} cells here and {values.shape} there: "
                "the tallies are of different instruments"
            )
            raise InputError(msg)
        total[name] = total[name] + values if name in total else values
    carry(total)
    return total


def carry(arrays: dict[str, np.ndarray]) -> None:
    """Bring exact sums to the one form that every number has."""
    for name in [key for key in arrays if key.endswith(_LOW)]:
        high = name.removesuffix(_LOW) + _HIGH
        arrays[high], arrays[name] = carried(arrays[high], arrays[name])


class Counter:
    """Counts objects, batch after batch.

    Parameters
    ----------
    kind : prefix of the names of its arrays, ``stars`` or ``galaxies``
    quantities : names of what is averaged
    axes : ways to sort the objects
    """

    def __init__(self, kind: str, quantities: Sequence[str], axes: Sequence[Axis]) -> None:
        self._kind, self._quantities, self._axes = kind, tuple(quantities), tuple(axes)
        self.arrays: dict[str, np.ndarray] = {}
        for axis in axes:
            self.arrays |= self._empty(axis)

    def add(self, columns: Mapping[str, np.ndarray]) -> None:
        """Count objects.

        Parameters
        ----------
        columns : (object,) each: the quantities, NaN where one was not measured; the columns of
            the axes; ``flux`` [electron]; ``flags``
        """
        values = np.stack([columns[name] for name in self._quantities]).astype(np.float64)
        with np.errstate(invalid="ignore"):
            valid = np.abs(values) <= LARGEST
        terms = _Terms.of(np.where(valid, values, 0.0), valid, columns)
        for axis in self._axes:
            self._add(axis, axis.cells(columns), terms)
        carry(self.arrays)

    def _empty(self, axis: Axis) -> dict[str, np.ndarray]:
        n, cells = len(self._quantities), axis.n_cells
        shapes: dict[str, tuple[int, ...]] = {
            "counts": (len(COUNTS), cells),
            "n": (n, cells),
            "sums/high": (n, len(MOMENTS), cells),
            "sums/low": (n, len(MOMENTS), cells),
        }
        if not axis.is_map:
            shapes["histogram"] = (n, cells, N_BINS)
        return {self._name(axis, key): np.zeros(shape, np.int64) for key, shape in shapes.items()}

    def _name(self, axis: Axis, key: str) -> str:
        return f"{self._kind}/{axis.name}/{key}"

    def _add(self, axis: Axis, cells: np.ndarray, terms: _Terms) -> None:
        inside = np.flatnonzero(cells >= 0)
        if not inside.size:
            return
        order = inside[np.argsort(cells[inside], kind="stable")]
        found, starts = np.unique(cells[order], return_index=True)
        for key, rows in terms.rows.items():
            target = self.arrays[self._name(axis, key)]
            target[..., found] += np.add.reduceat(rows[..., order], starts, axis=-1)
        if not axis.is_map:
            target = self.arrays[self._name(axis, "histogram")]
            for histogram, bins, valid in zip(target, terms.bins, terms.valid, strict=True):
                chosen = order[valid[order]]
                np.add.at(histogram, (cells[chosen], bins[chosen]), 1)


@dataclass(frozen=True, kw_only=True)
class _Terms:
    """What each object adds: ``rows`` by array, (..., object); its ``bins`` where ``valid``."""

    rows: dict[str, np.ndarray]
    bins: np.ndarray
    valid: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, valid: np.ndarray, columns: Mapping[str, np.ndarray]) -> _Terms:
        flux = np.clip(np.nan_to_num(columns["flux"].astype(np.float64)), 0.0, BRIGHTEST)
        moments = np.stack([values, values**2, flux * valid, flux * values], axis=1)
        high, low = split(moments)
        return cls(
            rows={
                "counts": _counts(columns["flags"]),
                "n": valid.astype(np.int64),
                "sums/high": high,
                "sums/low": low,
            },
            bins=bin_of(values),
            valid=valid,
        )


def _counts(flags: np.ndarray) -> np.ndarray:
    bits = [(flags & int(flag)) != 0 for flag in ObjectFlag]
    return np.stack([np.ones(len(flags), bool), *bits]).astype(np.int64)
