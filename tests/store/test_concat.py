from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from psfscale.store.concat import stacked


def block(first: int, n: int, stars: int) -> xr.DataTree:
    rng = np.random.default_rng(first)
    ids = np.array([f"e{k}" for k in range(first, first + n)], dtype=object)
    at = ("exposure", "ccd", "star")
    group = xr.Dataset(
        {
            "e1": (at, rng.normal(size=(n, 2, stars)).astype("f4"), {"units": "1"}),
            "flags": (at, rng.integers(1, 9, (n, 2, stars)).astype("u4")),
            "image": ((*at, "stamp_y", "stamp_x"), rng.normal(size=(n, 2, stars, 3, 4))),
        }
    )
    return xr.DataTree.from_dict(
        {
            "/": xr.Dataset(coords={"exposure": ids, "ccd": [7, 8]}, attrs={"kind": "run"}),
            "/stars": group,
            "/exposures": xr.Dataset({"id": ("exposure", ids)}),
            "/summary": xr.Dataset({"n": ((), first)}),
        }
    )


BLOCKS = [block(0, 3, 5), block(3, 1, 2), block(4, 2, 4)]


def by_hand(name: str) -> np.ndarray:
    """The arrays one after the other, padded with what nobody has written."""
    parts = [tree["stars"][name].values for tree in BLOCKS]
    fill = np.nan if parts[0].dtype.kind == "f" else 0
    widths = [[(0, 5 - p.shape[2]) if k == 2 else (0, 0) for k in range(p.ndim)] for p in parts]
    return np.concatenate(
        [np.pad(p, w, constant_values=fill) for p, w in zip(parts, widths, strict=True)]
    )


def test_stacked__has_the_exposures_of_all_blocks() -> None:
    tree = stacked(BLOCKS)
    assert tree["exposure"].values.tolist() == [f"e{k}" for k in range(6)]
    assert tree["exposures/id"].values.tolist() == tree["exposure"].values.tolist()
    for name in ("e1", "flags", "image"):
        array = tree["stars"][name]
        np.testing.assert_array_equal(array.values, by_hand(name))
        assert array.dtype == BLOCKS[0]["stars"][name].dtype
    assert tree["stars/e1"].attrs == {"units": "1"}
    assert tree.attrs == {"kind": "run"}
    one = tree["stars/flags"].sel(exposure="e3", ccd=8)
    np.testing.assert_array_equal(one, by_hand("flags")[3, 1])


def test_stacked__leaves_out_what_a_block_does_not_have() -> None:
    less = BLOCKS[1].copy()
    del less["summary"]
    tree = stacked([BLOCKS[0], less])
    assert "summary" not in tree.children
    assert "stars" in tree.children


def slices(n: int):
    # xarray itself fails on what is empty and backwards
    part = st.slices(n).filter(lambda s: (s.step or 1) > 0 or len(range(*s.indices(n))))
    return st.one_of(st.integers(-n, n - 1), part)


@settings(deadline=None)
@given(slices(6), slices(2), slices(5), slices(3))
def test_stacked__reads_any_part_as_numpy_does(exposure, ccd, star, y) -> None:
    key = exposure, ccd, star, y
    array = stacked(BLOCKS)["stars/image"]
    np.testing.assert_array_equal(array[key].values, by_hand("image")[key])


@pytest.mark.parametrize("rows", [[5, 0, 3], [1, 1], [True, False, True, False, False, True]])
def test_stacked__reads_chosen_exposures(rows) -> None:
    array = stacked(BLOCKS)["stars/e1"]
    chosen = np.array(rows)
    np.testing.assert_array_equal(array.isel(exposure=chosen).values, by_hand("e1")[chosen])
