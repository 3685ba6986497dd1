"""Arrays of one's own that xarray reads when their values are needed.

The only place that uses a part of another package outside its public interface: the xarray manual
("How to add a new backend") documents `xarray.core.indexing` for this purpose, and no public
module offers it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    import numpy as np


class LazyArray(BackendArray):  # type: ignore[misc,unused-ignore]
    """An array that reads itself; a subclass sets `shape` and `dtype`."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @abstractmethod
    def read(self, key: tuple[Any, ...]) -> np.ndarray:
        """Return the values at `key`: an integer or a slice for each axis."""

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, self.read
        )

    def variable(self, dims: Sequence[Hashable], attributes: Mapping[Any, Any]) -> xr.Variable:
        """Return the array as a variable whose values are read on use."""
        return xr.Variable(dims, indexing.LazilyIndexedArray(self), attributes)
