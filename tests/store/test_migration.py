"""Stores of earlier versions are converted in place, whole or not at all."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from golden_stores import VERSIONS, unpack
from typer.testing import CliRunner

from psfscale.cli import app
from psfscale.config import RunConfig
from psfscale.errors import HeldError, StoreError
from psfscale.pipeline import migrate, open_run, plan_run, run, verify
from psfscale.pipeline.ledger.lease import Lease
from psfscale.store import migration
from psfscale.store.stores import attributes_of, open_root, open_tree
from psfscale.store.versions import SCHEMA_VERSION, version_of

STORES = ("survey.zarr", "run.zarr", "model.zarr")
EARLIER = [version for version in VERSIONS if version < SCHEMA_VERSION]


@pytest.fixture(params=EARLIER)
def golden(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return unpack(request.param, tmp_path)


def config_of(folder: Path) -> RunConfig:
    return RunConfig.model_validate(attributes_of(open_root(folder / "run.zarr"))["config"])


def loaded(path: Path) -> xr.DataTree:
    return open_tree(path).load()


@pytest.mark.torch
def test_migrate__changes_no_value_and_leaves_nothing_to_do(golden) -> None:
    before = {name: loaded(golden / name) for name in STORES}
    plan = plan_run(config_of(golden)).counts()
    for name in STORES:
        assert migrate(Path(name)) == [Path(name)]
        assert version_of(golden / name) == SCHEMA_VERSION
        xr.testing.assert_identical(loaded(golden / name), before[name])
        assert migrate(Path(name)) == []
    assert plan_run(config_of(golden)).counts() == plan
    assert verify(Path("run.zarr")).ok


@pytest.mark.torch
def test_migrated_store__has_the_metadata_of_one_made_today(golden) -> None:
    migrate(Path("survey.zarr"))
    migrate(Path("run.zarr"))
    config = config_of(golden).model_copy(update={"output": Path("new.zarr")})
    run(config, serial=True, observers=[])
    old, new = (zarr.open_group(name, mode="r") for name in ("run.zarr", "new.zarr"))
    for name, array in new.members(max_depth=None):
        if isinstance(array, zarr.Array) and name in old:
            assert old[name].metadata.dimension_names == array.metadata.dimension_names, name
            assert old[name].attrs.keys() == array.attrs.keys(), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["survey.zarr", "run.zarr"])
def test_migration__killed_at_any_moment_leaves_the_old_store_and_goes_on(
    golden, monkeypatch, name
) -> None:
    """Each try makes one change and dies before the next, so it dies at every moment."""
    path = golden / name
    want, plain, tries = loaded(path), open_plainly(path), 0
    lives = Lives(migration.replace_file)
    monkeypatch.setattr(migration, "replace_file", lives)
    while version_of(path) != SCHEMA_VERSION:
        lives.left = 1
        with suppress(KeyboardInterrupt):
            migrate(path)
        if tries % 4 == 0 and version_of(path) != SCHEMA_VERSION:
            xr.testing.assert_identical(open_plainly(path), plain)
            xr.testing.assert_identical(loaded(path), want)
        tries += 1
    assert tries > 5
    xr.testing.assert_identical(loaded(path), want)


class Lives:
    """A change of the disk that can be made `left` times."""

    def __init__(self, change) -> None:
        self._change, self.left = change, 0

    def __call__(self, *args) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self._change(*args)


def open_plainly(path: Path) -> xr.DataTree:
    """As a program without psfscale does."""
    return xr.open_datatree(path, engine="zarr").load()


@pytest.mark.torch
def test_earlier_stores__are_inputs_and_say_how_to_be_added_to(golden) -> None:
    config = config_of(golden)
    with pytest.raises(StoreError, match=r"run `psfscale migrate run\.zarr` first"):
        run(config, serial=True, observers=[])
    every = config.stars.model_copy(update={"leave_out": ()})  # as the fits were made
    other = config.model_copy(update={"output": Path("other.zarr"), "stars": every})
    assert run(other, serial=True, observers=[]).exit_code == 1  # the CCD of one star
    old, new = open_run("run.zarr"), open_run("other.zarr")
    for array in ("stars/fit_flux", "galaxies/psf", "galaxies/restored", "stars/e1_model"):
        scale = float(np.abs(old[array]).max())
        np.testing.assert_allclose(new[array], old[array], atol=2e-3 * scale, err_msg=array)


def test_migrate__keeps_out_of_a_run_that_a_driver_holds(golden) -> None:
    with Lease(golden / "run.zarr"), pytest.raises(HeldError):
        migrate(golden / "run.zarr")


def test_migrate__names_damaged_metadata_and_a_store_of_a_later_version(golden) -> None:
    file = golden / "survey.zarr/stars/image/zarr.json"
    text = file.read_text()
    file.write_text(text[:-9])
    with pytest.raises(StoreError, match=r"stars/image/zarr\.json is damaged"):
        migrate(golden / "survey.zarr")
    file.write_text(text)
    root = golden / "survey.zarr/zarr.json"
    document = json.loads(root.read_text())
    document["attributes"]["psfscale_schema"] = SCHEMA_VERSION + 1
    root.write_text(json.dumps(document))
    with pytest.raises(StoreError, match="install a newer psfscale"):
        migrate(golden / "survey.zarr")


def test_migrate_command__says_what_it_did(golden) -> None:
    for words in ("survey.zarr is of today's schema version now", "already"):
        result = CliRunner().invoke(app, ["migrate", "survey.zarr"])
        assert result.exit_code == 0, result.output
        assert words in result.output
