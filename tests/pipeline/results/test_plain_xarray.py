"""Every group of every store is plotted, selected, masked, saved and read by plain xarray."""

from __future__ import annotations

import pytest
import toy
import xarray as xr

from psfscale.pipeline import aggregate_run, open_run, run
from psfscale.store.stores import open_tree

WIDE = {"units": ["wanted", "fingerprint", "digest"]}
"""Integers of 64 bits, which NetCDF 3 has not."""


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A survey and a run with all products; stamps of more than one chunk a CCD."""
    folder = tmp_path_factory.mktemp("plain")
    toy.write_instrument(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "N_STARS", 32)
        patch.setattr(toy, "N_GALAXIES", 32)
        toy.make_survey(folder / "survey.zarr", 2)
        toy.place_and_colour(folder)
    config = toy.make_config(
        folder,
        model={"name": "rca", "settings": {"n_components": 2, "upsampling": 1}},
        restore={"at_galaxies": True, "settings": {"learnt": {"n_rounds": 1, "fast": True}}},
    )
    run(config, serial=True, observers=[])
    aggregate_run(config.output)
    return folder


def plainly(path) -> xr.DataTree:
    return xr.open_datatree(path, engine="zarr")


def groups(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    """All groups by path, of the tables only two, for they are alike."""
    found = {node.path.strip("/"): node.to_dataset() for node in tree.subtree}
    tables = [name for name in found if name.startswith("aggregates/")]
    return {name: group for name, group in found.items() if name not in tables[:-2]}


@pytest.mark.parametrize("opened", [plainly, open_tree])
@pytest.mark.parametrize("store", ["survey.zarr", "run.zarr"])
def test_every_group__is_saved_and_read_back(stores, tmp_path, store, opened) -> None:
    for k, (name, group) in enumerate(groups(opened(stores / store)).items()):
        loaded = group.load()
        group.to_zarr(tmp_path / f"{k}.zarr", consolidated=False)
        again = xr.open_zarr(tmp_path / f"{k}.zarr", consolidated=False).load()
        xr.testing.assert_identical(again, loaded)
        narrow = loaded.drop_vars([v for v in WIDE.get(name, ()) if v in loaded])
        narrow.to_netcdf(tmp_path / f"{k}.nc", engine="scipy")
        xr.testing.assert_equal(xr.load_dataset(tmp_path / f"{k}.nc", engine="scipy"), narrow)


@pytest.mark.parametrize("opened", [plainly, open_tree])
@pytest.mark.parametrize("store", ["survey.zarr", "run.zarr"])
def test_every_group__is_selected_by_id_and_a_part_of_it_saved(
    stores, tmp_path, store, opened
) -> None:
    for k, group in enumerate(groups(opened(stores / store)).values()):
        labels = {"exposure": "exp-1", "ccd": 2}
        part = group.sel({dim: label for dim, label in labels.items() if dim in group.dims})
        part.drop_encoding().to_zarr(tmp_path / f"{k}.zarr", consolidated=False)
        again = xr.open_zarr(tmp_path / f"{k}.zarr", consolidated=False)
        xr.testing.assert_identical(again.load(), part.load())


@pytest.mark.parametrize("store", ["survey.zarr", "run.zarr"])
def test_every_group__is_masked(stores, store) -> None:
    for name, whole in groups(open_tree(stores / store)).items():
        group = whole.drop_vars([v for v in WIDE.get(name, ()) if v in whole])
        xr.testing.assert_equal(group.where(True).load().astype(group.dtypes), group.load())


def test_stamps__are_plotted_and_selected_by_position(stores) -> None:
    pytest.importorskip("matplotlib").use("Agg")
    import matplotlib.pyplot as plt

    stars = plainly(stores / "survey.zarr")["stars"].to_dataset().sel(exposure="exp-0", ccd=1)
    bright = stars.where(stars.x > stars.x.min(), drop=True)
    assert 0 < bright.sizes["star"] < stars.sizes["star"]
    by_x = stars.isel(star=slice(12)).swap_dims(star="x").sortby("x")
    nearest = by_x.sel(x=150.0, method="nearest")
    assert nearest.image.dims == ("stamp_y", "stamp_x")
    drawn = nearest.image.plot()
    assert drawn.axes.get_xlabel() == "stamp_x"
    plt.close("all")
    for name in ("psf", "restored", "image"):
        galaxies = open_run(stores / "run.zarr").galaxies(exposure="exp-0", ccd=1)
        galaxies[name].isel(galaxy=0).plot()
        galaxies.plot.scatter(x="x", y="y", hue="restored_flux")
        plt.close("all")


def test_what_a_run_gives__is_saved_and_read_back(stores, tmp_path) -> None:
    opened = open_run(stores / "run.zarr")
    psf = opened.psf(exposure="exp-0", ccd=1, x=[10.0, 20.0], y=[5.0, 9.0])
    given = {
        "galaxies": opened.galaxies(exposure="exp-0", ccd=2),
        "psf": psf.to_dataset(name="psf"),
        "table": opened.table("stars/over_ccd"),
    }
    for level in ("star", "galaxy", "ccd", "exposure", "survey"):
        given[level] = opened.metrics(level)
    for name, data in given.items():
        loaded = data.load()
        data.to_zarr(tmp_path / f"{name}.zarr", consolidated=False)
        again = xr.open_zarr(tmp_path / f"{name}.zarr", consolidated=False).load()
        xr.testing.assert_identical(again, loaded)
        data.to_netcdf(tmp_path / f"{name}.nc", engine="scipy")
        xr.testing.assert_equal(xr.load_dataset(tmp_path / f"{name}.nc", engine="scipy"), loaded)
