"""Between stores and stages: the run store, and the arrays of one exposure."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr

from psfscale.errors import StoreError
from psfscale.store.layout import EXPOSURE, dims_of, n_exposures_of

ADVICE = "`psfscale verify --repair` puts right what it can"


def array_of(root: zarr.Group, path: str) -> zarr.Array[Any]:
    """One array of an open store.

    Raises
    ------
    StoreError
        The store has no such array, or its metadata are damaged.
    """
    try:
        found = root.get(path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"the metadata of {path} in {root.store_path} are damaged ({error}); {ADVICE}"
        raise StoreError(msg) from error
    if not isinstance(found, zarr.Array):
        msg = f"{root.store_path} has no array {path}; was it written by this psfscale?"
        raise StoreError(msg)
    return found


def values_of(root: zarr.Group, path: str) -> np.ndarray:
    """Return all values of one array of an open store, of the exposures that the store has.

    Raises
    ------
    StoreError
        The store has no such array, or a stored object of it is damaged.
    """
    array = array_of(root, path)
    try:
        if dims_of(array)[:1] == (EXPOSURE,) and path != EXPOSURE:
            return np.asarray(array[: n_exposures_of(root)])  # more where growth was interrupted
        return np.asarray(array[...])
    except (ValueError, RuntimeError, TypeError) as error:
        msg = f"{path} in {root.store_path} is damaged ({error}); {ADVICE}"
        raise StoreError(msg) from error
