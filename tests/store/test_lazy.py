"""What `psfscale.store.lazy` takes from inside xarray does what it must."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from psfscale.store.lazy import LazyArray

VALUES = np.arange(60, dtype="f4").reshape(3, 4, 5)


class Counted(LazyArray):
    def __init__(self) -> None:
        self.shape, self.dtype = VALUES.shape, VALUES.dtype
        self.keys: list[tuple[Any, ...]] = []

    def read(self, key: tuple[Any, ...]) -> np.ndarray:
        assert all(isinstance(k, int | np.integer | slice) for k in key), key
        self.keys.append(key)
        return VALUES[key]


def test_lazy_array__reads_nothing_until_its_values_are_needed() -> None:
    source = Counted()
    variable = source.variable(("a", "b", "c"), {"units": "electron"})
    part = xr.Dataset({"image": variable}).image.isel(a=1)[:2]
    assert part.shape == (2, 5)
    assert part.attrs == {"units": "electron"}
    assert source.keys == []
    np.testing.assert_array_equal(part, VALUES[1, :2])
    assert len(source.keys) == 1
    assert np.size(VALUES[source.keys[0]]) == 10  # no more than the part


@pytest.mark.parametrize(
    "key",
    [
        {"a": [2, 0]},
        {"a": slice(None, None, -1)},
        {"b": [3, 1], "c": [0, 4]},
        {"a": 0, "b": slice(1, 4, 2), "c": -1},
        {"b": slice(0, 0)},
    ],
)
def test_lazy_array__is_indexed_as_numpy_is(key: dict[str, Any]) -> None:
    lazy = xr.Dataset({"image": Counted().variable(("a", "b", "c"), {})}).image
    plain = xr.DataArray(VALUES, dims=("a", "b", "c"))
    xr.testing.assert_identical(lazy.isel(key).drop_attrs(), plain.isel(key).rename("image"))
