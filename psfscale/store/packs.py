"""Packs: small arrays of one group that lie side by side in one stored array.

The arrays ``e1_star``, ``e2_star``, ... of the pack ``metrics`` are entries of the array
``stars/metrics`` (exposure, ccd, metric, star) along its axis ``metric``, which bears their
names. An array with dims of its own takes one entry for each of its elements, in C order:
``alpha[0,3]``. All entries have the pack's type; whole numbers of up to 24 bits are exact in
float32. Plain xarray reads ``tree["stars"].metrics.sel(metric="e1_star")``; `unpacked` gives the
arrays under their own names, shapes and types.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from psfscale.store.lazy import LazyArray
from psfscale.store.schema import ArraySpec

if TYPE_CHECKING:
    import zarr

LEADING = ("exposure", "ccd")
ENTRIES = "entries"
"""Attribute of a packed array, JSON: dims, shape, dtype, units and meaning of each in it."""


def leading_dims(dims: tuple[str, ...]) -> tuple[str, ...]:
    """Of an array's dims, exposure and, where it has one entry a CCD, ccd."""
    return LEADING if dims[:2] == LEADING else dims[:1]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an array lies in its pack.

    Attributes
    ----------
    path : of the packed array
    entries : its range on the axis of labels
    shape : of its own dims, those the pack does not have
    dtype : its own
    """

    path: str
    entries: slice
    shape: tuple[int, ...]
    dtype: str

    def take(self, packed: np.ndarray, *, axis: int) -> np.ndarray:
        """The array, from `packed` whose labels lie along `axis`."""
        chosen = packed[(*[slice(None)] * axis, self.entries)]
        return restored(chosen, axis, self.shape, self.dtype)

    def put(self, packed: np.ndarray, values: np.ndarray) -> None:
        """Write one CCD's values (common dims, own dims) into its packed (label, common dims)."""
        n_own = len(self.shape)
        common = values.ndim - n_own
        own_first = np.moveaxis(values, range(common, values.ndim), range(n_own))
        packed[self.entries] = own_first.reshape(-1, *values.shape[:common])


def restored(entries: np.ndarray, axis: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An array of its own dims and type from its entries along `axis`; its own dims come last."""
    values = entries.reshape((*entries.shape[:axis], *shape, *entries.shape[axis + 1 :]))
    own = range(axis, axis + len(shape))
    values = np.moveaxis(values, own, range(values.ndim - len(shape), values.ndim))
    kind = np.dtype(dtype)
    if kind.kind != "f" and values.dtype.kind == "f":
        values = np.nan_to_num(values)
    return values.astype(kind)


@dataclass(frozen=True, kw_only=True)
class Packing:
    """The arrays to store, and where in them the declared ones lie.

    Attributes
    ----------
    stored : specifications of the arrays to store, labels included
    sizes : length of every dim, those of the labels included
    places : of packed arrays, by their path
    labels : names of the entries, by the path of their array
    """

    stored: tuple[ArraySpec, ...]
    sizes: Mapping[str, int]
    places: Mapping[str, Place]
    labels: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, specs: Iterable[ArraySpec], sizes: Mapping[str, int]) -> Packing:
        """Pack what is declared."""
        alone: list[ArraySpec] = []
        together: list[ArraySpec] = []
        for spec in specs:
            (together if spec.pack else alone).append(spec)
        together.sort(key=_pack_path)
        stored, places = list(alone), dict[str, Place]()
        labels: dict[str, tuple[str, ...]] = {}
        lengths = dict(sizes)
        for path, members in groupby(together, key=_pack_path):
            pack = _Pack(path=path, members=tuple(members), sizes=sizes)
            stored += [pack.array(), pack.label_array()]
            places |= pack.places()
            labels[f"{pack.group}/{pack.axis}"] = pack.labels()
            lengths[f"{pack.group}.{pack.axis}"] = len(pack.labels())
        return cls(stored=tuple(stored), sizes=lengths, places=places, labels=labels)


def _pack_path(spec: ArraySpec) -> str:
    return f"{spec.group}/{spec.pack}"


@dataclass(frozen=True, kw_only=True)
class _Pack:
    path: str
    members: tuple[ArraySpec, ...]
    sizes: Mapping[str, int]

    @property
    def group(self) -> str:
        return self.members[0].group

    @property
    def axis(self) -> str:
        return pack_axis(self.members[0].pack)

    @property
    def common(self) -> tuple[str, ...]:
        """Dims that all members have after exposure and ccd."""
        lead = len(self.leading)
        shortest = min((m.dims[lead:] for m in self.members), key=len)
        n = 0
        while n < len(shortest) and all(m.dims[lead + n] == shortest[n] for m in self.members):
            n += 1
        return shortest[:n]

    @property
    def leading(self) -> tuple[str, ...]:
        """Dims before the labels: exposure, and ccd where the members have it."""
        return leading_dims(self.members[0].dims)

    def own_shape(self, spec: ArraySpec) -> tuple[int, ...]:
        return spec.shape(self.sizes)[len(self.leading) + len(self.common) :]

    def labels(self) -> tuple[str, ...]:
        return tuple(
            spec.name + (f"[{','.join(map(str, at))}]" if at else "")
            for spec in self.members
            for at in np.ndindex(self.own_shape(spec))
        )

    def places(self) -> dict[str, Place]:
        found, start = {}, 0
        for spec in self.members:
            shape = self.own_shape(spec)
            entries = slice(start, start + prod(shape))
            found[spec.path] = Place(path=self.path, entries=entries, shape=shape, dtype=spec.dtype)
            start = entries.stop
        return found

    def array(self) -> ArraySpec:
        kinds = [np.dtype(m.dtype) for m in self.members]
        double = any(kind.itemsize > np.dtype(np.float32).itemsize for kind in kinds)
        first, one_each = (
            self.members[0],
            all(m.dims[len(self.leading) :] == self.common for m in self.members),
        )
        described = {
            m.name: {
                "dims": list(m.dims[len(self.leading) + len(self.common) :]),
                "shape": list(self.own_shape(m)),
                "dtype": m.dtype,
                "units": m.units,
                "long_name": m.long_name,
                **dict(m.attributes),
            }
            for m in self.members
        }
        return replace(
            first,
            path=self.path,
            dims=(*self.leading, self.axis, *self.common),
            dtype="f8" if double else "f4",
            units="",
            long_name=f"by {self.axis}: {', '.join(m.name for m in self.members)}",
            attributes=((ENTRIES, json.dumps(described)),),
            pack="",
            cut=self.axis if one_each else "",
        )

    def label_array(self) -> ArraySpec:
        return ArraySpec(
            path=f"{self.group}/{self.axis}",
            dims=(self.axis,),
            dtype="str",
            units="",
            long_name=f"names of the entries of {self.members[0].pack}",
            owner="driver",
            stage="driver",
        )


def pack_axis(pack: str) -> str:
    """Name of the axis of labels: the pack's name is its plural."""
    return pack.removesuffix("s")


def unpacked(tree: xr.DataTree, root: zarr.Group) -> xr.DataTree:
    """The tree of a store with the arrays of every pack under their own names; lazy.

    Parameters
    ----------
    tree : as plain xarray opens it
    root : the same store
    """
    nodes = {}
    for node in tree.subtree:
        path = node.path.strip("/")
        nodes[node.path] = _unpacked_group(node.to_dataset(inherit=False), root, path)
    return xr.DataTree.from_dict(nodes, name=tree.name)


def _unpacked_group(group: xr.Dataset, root: zarr.Group, path: str) -> xr.Dataset:
    packs = [str(name) for name, array in group.variables.items() if ENTRIES in array.attrs]
    variables = {}
    for name in packs:
        stored, start = group[name], 0
        axis = stored.dims.index(pack_axis(name))
        for member, described in json.loads(stored.attrs[ENTRIES]).items():
            shape = tuple(described["shape"])
            entries = slice(start, start + prod(shape))
            start = entries.stop
            source: Any = root[f"{path}/{name}" if path else name]
            n = stored.sizes["exposure"]  # the source is longer while it grows
            lazy = _Entries(source, n, axis, entries, shape, described["dtype"])
            dims = (*stored.dims[:axis], *stored.dims[axis + 1 :], *described["dims"])
            told = {k: v for k, v in described.items() if k not in ("dims", "shape", "dtype")}
            variables[member] = lazy.variable(dims, told)
    rest = group.drop_vars([*packs, *map(pack_axis, packs)]).assign(variables)
    stored_texts = rest.data_vars.variables.items()
    texts = {n: _Text(v).variable(v.dims, v.attrs) for n, v in stored_texts if v.dtype.kind == "T"}
    return rest.assign(texts).drop_encoding()  # else a part of it could not be saved


class _Text(LazyArray):
    """Text as Python strings, which can be masked; numpy's own cannot."""

    def __init__(self, source: xr.Variable) -> None:
        self._source, self.shape, self.dtype = source, source.shape, np.dtype(object)

    def read(self, key: tuple[Any, ...]) -> np.ndarray:
        """Return the values at `key`."""
        return np.asarray(self._source[key].values, object)


class _Entries(LazyArray):
    """One array of a pack, read when it is asked for."""

    def __init__(
        self,
        source: zarr.Array[Any],
        n: int,
        axis: int,
        entries: slice,
        own: tuple[int, ...],
        dtype: str,
    ) -> None:
        self._source, self._axis, self._range, self._own = source, axis, entries, own
        common = (n, *source.shape[1:axis], *source.shape[axis + 1 :])
        self.shape = (*common, *own)
        self.dtype = np.dtype(dtype)

    def read(self, key: tuple[Any, ...]) -> np.ndarray:
        n_common = len(self.shape) - len(self._own)
        outer, own = key[:n_common], key[n_common:]
        if isinstance(outer[0], slice):
            outer = (slice(*outer[0].indices(self.shape[0])), *outer[1:])
        kept = sum(isinstance(k, slice) for k in outer[: self._axis])
        source: Any = self._source[(*outer[: self._axis], self._range, *outer[self._axis :])]
        values = restored(np.asarray(source), kept, self._own, self.dtype.str)
        return values[(..., *own)] if own else values
