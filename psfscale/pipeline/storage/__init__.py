"""Between stores and stages: the run store, and the arrays of one exposure."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr

from psfscale.errors import StoreError


def array_of(root: zarr.Group, path: str) -> zarr.Array[Any]:
    """One array of an open store.

    Raises
    ------
    StoreError
        The store has no such array.
    """
    found = root.get(path)
    if not isinstance(found, zarr.Array):
        msg = f"{root.store_path} has no array {path}; was it written by this psfscale?"
        raise StoreError(msg)
    return found


def values_of(root: zarr.Group, path: str) -> np.ndarray:
    """All values of one array of an open store.

    Raises
    ------
    StoreError
        The store has no such array.
    """
    return np.asarray(array_of(root, path)[...])
