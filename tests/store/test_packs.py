from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from psfscale.store.packs import Packing
from psfscale.store.schema import ArraySpec
from psfscale.store.stores import create_store, open_root, open_tree

SIZES = {"exposure": 3, "ccd": 2, "star": 4, "n": 2, "m": 3}


def spec(path: str, dims: str, dtype: str, pack: str = "") -> ArraySpec:
    return ArraySpec(
        path=path,
        dims=("exposure", "ccd", *dims.split()),
        dtype=dtype,
        units="pixel",
        long_name=f"a {path}",
        owner="exposure",
        stage="fit",
        pack=pack,
    )


SPECS = (
    spec("stars/flux", "star", "f4", "metrics"),
    spec("stars/flags", "star", "u4", "metrics"),
    spec("stars/image", "star n", "f4"),
    spec("model/alpha", "n m", "f8", "parameters"),
    spec("model/width", "", "f4", "parameters"),
)


@pytest.fixture
def filled(tmp_path):
    """A store of packed arrays whose second exposure is filled, and what it was filled with."""
    packing = Packing.of(SPECS, SIZES)
    path = tmp_path / "s.zarr"
    root = create_store(path, packing.stored, sizes=packing.sizes, attributes={})
    for name, labels in packing.labels.items():
        root[name][...] = np.asarray(labels, dtype=object)
    rng, truth = np.random.default_rng(0), {}
    for one in SPECS:
        values = rng.integers(0, 1000, one.shape(SIZES)[1:]).astype(one.dtype)
        truth[one.path] = values
        if one.pack:
            place = packing.places[one.path]
            packed = root[place.path][1]
            for ccd in range(SIZES["ccd"]):
                place.put(packed[ccd], values[ccd])
            root[place.path][1] = packed
            for ccd in range(SIZES["ccd"]):
                taken = place.take(root[place.path][1, ccd], axis=0)
                np.testing.assert_array_equal(taken, values[ccd])
        else:
            root[one.path][1] = values
    return path, truth


def test_packs__are_one_stored_array_each(filled) -> None:
    path, _ = filled
    assert sorted(open_root(path)["stars"].array_keys()) == ["image", "metric", "metrics"]
    assert sorted(open_root(path)["model"].array_keys()) == ["parameter", "parameters"]
    stored = [file for file in (path / "stars/metrics").iterdir() if file.name != "zarr.json"]
    assert len(stored) == 1


def test_packs__open_with_plain_xarray_by_their_labels(filled) -> None:
    path, truth = filled
    tree = xr.open_datatree(path, engine="zarr")
    flux = tree["stars"].metrics.sel(metric="flux").isel(exposure=1)
    np.testing.assert_array_equal(flux, truth["stars/flux"])
    one = tree["model"].parameters.sel(parameter="alpha[1,2]").isel(exposure=1)
    np.testing.assert_array_equal(one, truth["model/alpha"][:, 1, 2])


def test_unpacked__gives_every_array_its_name_dims_type_and_attributes(filled) -> None:
    path, truth = filled
    tree = open_tree(path)
    for one in SPECS:
        array = tree[one.path]
        assert array.dims == one.dims
        assert array.dtype == np.dtype(one.dtype)
        assert array.attrs["units"] == "pixel"
        np.testing.assert_array_equal(array[1], truth[one.path])
    assert set(tree["stars"].data_vars) == {"flux", "flags", "image"}


def test_unpacked__reads_any_selection(filled) -> None:
    path, truth = filled
    tree = open_tree(path)
    alpha, flags = tree["model/alpha"], tree["stars/flags"]
    np.testing.assert_array_equal(alpha[1, 0, :, 2], truth["model/alpha"][0, :, 2])
    np.testing.assert_array_equal(alpha[1:, 1, 1, ::2][0], truth["model/alpha"][1, 1, ::2])
    np.testing.assert_array_equal(flags[1, :, [0, 3]], truth["stars/flags"][:, [0, 3]])
    assert int(flags[1, 0, 2]) == truth["stars/flags"][0, 2]
    assert (flags[0] == 0).all()
    assert np.isnan(tree["stars/flux"][0]).all()
