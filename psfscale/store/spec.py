"""How a stored array is specified: its dims, type and meaning, and how it is cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

OBJECTS_PER_CHUNK = 16
"""Objects in an inner chunk of a stamp shard; object capacities are multiples of it."""
EXPOSURES_PER_CHUNK = 1024

FIXED_SIZES = {"sky": 2, "pixel": 2}
"""Dims of one length in all stores: the axes u, v of the sky's tangent plane, x, y of the CCD."""

Owner = Literal["ccd", "exposure", "ledger", "driver"]


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """One stored array.

    `path` is ``group/name``; the root group's arrays have no slash. `stage` names the
    pipeline stage that writes it (run store), or ``ingest``, or ``driver``. `pack` names the
    array of its group that holds it, with others, if it is not stored by itself. `cut` is a
    dim along which every entry is a readable piece of its own.
    """

    path: str
    dims: tuple[str, ...]
    dtype: str
    units: str
    long_name: str
    owner: Owner
    stage: str
    attributes: tuple[tuple[str, object], ...] = ()
    pack: str = ""
    cut: str = ""

    @property
    def group(self) -> str:
        """Path of the group that holds the array; empty for the root."""
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        """Name of the array in its group."""
        return self.path.rpartition("/")[2]

    @property
    def fill(self) -> float | int | str:
        """What an entry nobody has written reads as: NaN, 0 or the empty string."""
        if self.dtype == "str":
            return ""
        return float("nan") if self.dtype.startswith("f") else 0

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Lengths of the dims; ``group.dim`` in `sizes` comes before ``dim``."""
        sizes = {**FIXED_SIZES, **sizes}
        return tuple(
            sizes[f"{self.group}.{d}"] if f"{self.group}.{d}" in sizes else sizes[d]
            for d in self.dims
        )

    def shard(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Shape of one stored object, which one writer writes whole."""
        shape = self.shape(sizes)
        if self.owner == "ccd":
            return (1, 1, *shape[2:])
        if self.owner == "exposure":
            return (1, *shape[1:])
        if self.dims[:1] == ("exposure",) and self.stage != "ingest":
            return (EXPOSURES_PER_CHUNK, *shape[1:])  # as a run grows exposure by exposure
        return (min(EXPOSURES_PER_CHUNK, max(shape[0], 1)), *shape[1:]) if shape else ()

    def chunk(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Shape of one readable piece of a stored object."""
        shard = self.shard(sizes)
        if self.owner == "ccd" and self.dims[2:3] in (("star",), ("galaxy",)):
            return (1, 1, min(OBJECTS_PER_CHUNK, shard[2]), *shard[3:])
        if self.cut:
            return tuple(1 if d == self.cut else n for d, n in zip(self.dims, shard, strict=True))
        return shard


def spec_of(
    path: str, dims: str, dtype: str, units: str, long_name: str, **rest: object
) -> ArraySpec:
    """A specification, that of an array of a survey store where `rest` does not say otherwise."""
    base = ArraySpec(
        path=path,
        dims=tuple(dims.split()),
        dtype=dtype,
        units=units,
        long_name=long_name,
        owner="exposure",
        stage="ingest",
    )
    return replace(base, **rest)  # type: ignore[arg-type]
