"""Trees of several blocks read as one, lazily: exposures one after the other."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from psfscale.store.lazy import LazyArray

if TYPE_CHECKING:
    from collections.abc import Sequence

AXIS = "exposure"


def stacked(trees: Sequence[xr.DataTree]) -> xr.DataTree:
    """Blocks as one tree: arrays over exposures follow one another, others are the first block's.

    Only groups and arrays that all blocks have are in it. Where a block has less room than
    another (for stars, say) its arrays end in the values of what nobody has written.
    """
    first, *others = trees
    nodes = {}
    for node in first.subtree:
        parts = [_node(tree, node.path) for tree in others]
        if all(part is not None for part in parts):
            groups = [node.to_dataset(inherit=False), *(p for p in parts if p is not None)]
            nodes[node.path] = _stacked_group(groups)
    return xr.DataTree.from_dict(nodes, name=first.name)


def _node(tree: xr.DataTree, path: str) -> xr.Dataset | None:
    for name in path.strip("/").split("/") if path.strip("/") else []:
        if name not in tree.children:
            return None
        tree = tree.children[name]
    return tree.to_dataset(inherit=False)


def _stacked_group(groups: Sequence[xr.Dataset]) -> xr.Dataset:
    first = groups[0]
    names = [n for n in first.variables if all(n in group.variables for group in groups)]
    variables = {}
    for name in names:
        parts = [group.variables[name] for group in groups]
        variables[name] = _joined(parts) if parts[0].dims[:1] == (AXIS,) else parts[0]
    held = {name: v for name, v in variables.items() if name in first.coords}
    rest = {name: v for name, v in variables.items() if name not in held}
    return xr.Dataset(rest, coords=held, attrs=first.attrs)


def _joined(parts: Sequence[xr.Variable]) -> xr.Variable:
    if parts[0].dims == (AXIS,):
        values = np.concatenate([part.values for part in parts])
        return xr.Variable(parts[0].dims, values, parts[0].attrs)
    return _Stacked(parts).variable(parts[0].dims, parts[0].attrs)


class _Stacked(LazyArray):
    """Arrays one after the other, read when asked for, each padded to the largest."""

    def __init__(self, parts: Sequence[xr.Variable]) -> None:
        self._parts = list(parts)
        self._starts = np.cumsum([0, *(part.shape[0] for part in parts)])
        largest = np.max([part.shape[1:] for part in parts], axis=0)
        self.shape = (int(self._starts[-1]), *map(int, largest))
        self.dtype = parts[0].dtype

    def read(self, key: tuple[Any, ...]) -> np.ndarray:
        rows = np.atleast_1d(np.arange(self.shape[0])[key[0]])
        found = [
            self._of_part(part, rows[(rows >= start) & (rows < stop)] - start, key[1:])
            for part, (start, stop) in zip(self._parts, pairwise(self._starts), strict=True)
            if ((rows >= start) & (rows < stop)).any()
        ]
        if not found:  # no row is asked for: any part tells the shape
            return self._of_part(self._parts[0], np.zeros(1, np.int64), key[1:])[:0]
        values = np.concatenate(found)
        return values if isinstance(key[0], slice) else np.asarray(values[0])

    def _of_part(self, part: xr.Variable, rows: np.ndarray, rest: tuple[Any, ...]) -> np.ndarray:
        """Rows of one block; axes on which it is short are read whole, padded, then indexed."""
        first, last = int(rows.min()), int(rows.max())
        short = [own < full for own, full in zip(part.shape[1:], self.shape[1:], strict=True)]
        within = [slice(None) if cut else k for k, cut in zip(rest, short, strict=True)]
        values = part[(slice(first, last + 1), *within)].values[rows - first]
        axis = 1
        for k, cut, full in zip(rest, short, self.shape[1:], strict=True):
            if cut:
                width = [(0, 0)] * values.ndim
                width[axis] = (0, full - values.shape[axis])
                values = np.pad(values, width, constant_values=_nothing(self.dtype))
                values = values[(*[slice(None)] * axis, k)]
            axis += isinstance(k, slice)
        return np.asarray(values)


def _nothing(dtype: np.dtype[Any]) -> Any:
    """What an entry that nobody has written reads as."""
    if dtype.kind in "OTU":
        return ""
    return np.nan if dtype.kind == "f" else 0
