from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import toy
import xarray as xr
from typer.testing import CliRunner

from psfscale.arrays import Role
from psfscale.cli import app
from psfscale.errors import InputError, RunError, StoreError
from psfscale.pipeline import (
    aggregate_run,
    metrics_of_stars,
    open_run,
    report_run,
    run,
    verify,
    write_tables,
)
from psfscale.pipeline.drive.blocks import configs, run_blocks, write_index
from psfscale.pipeline.ledger.lease import Lease
from psfscale.pipeline.results import tallies as tallying
from psfscale.pipeline.results.tables import aggregate_stores, read_aggregates
from psfscale.pipeline.workers.profiles import LocalProfile
from psfscale.store.stores import open_root, open_tree


def scatter_over_sky(survey_store) -> None:
    """Give stars places on the sky, so that they make pairs."""
    root = open_root(survey_store, mode="r+")
    shape = root["stars/ra"].shape
    rng = np.random.default_rng(5)
    root["stars/ra"][...], root["stars/dec"][...] = rng.uniform(0, 0.1, (2, *shape))


@pytest.fixture
def finished(survey):
    """A run of two exposures, galaxies restored, of which one CCD has no PSF."""
    scatter_over_sky(survey / "survey.zarr")
    toy.spoil_ccd(survey / "survey.zarr", 1, 0, how="few")
    restore = {"at_galaxies": True, "settings": {"mode": "sparse", "n_iter": 5}}
    config = toy.make_config(survey, restore=restore)
    run(config, serial=True, observers=[])
    return config


def files_of(folder) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_aggregate_stores__are_the_statistics_of_the_stored_stars(finished) -> None:
    found = aggregate_stores([finished.output], finished.output, rho=True)
    stars, given = open_run(finished.output)["stars"], open_tree(finished.survey)["stars"]
    reserved = (given["role"] == Role.RESERVED).values
    reserved[1, 0] = False  # quarantined
    delta = stars["e1_star"].values.astype(float) - stars["e1_model"].values
    table = found["stars/by_ccd"].sel(quantity="e1_residual")
    for ccd in (0, 1):
        values = delta[:, ccd][reserved[:, ccd]]
        values = values[np.isfinite(values)]
        assert int(table["n"][ccd]) == values.size > 0
        np.testing.assert_allclose(table["mean"][ccd], values.mean(), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(table["sd"][ccd], values.std(), rtol=1e-6, atol=1e-8)
    assert table["ccd"].values.tolist() == [1, 2]
    assert found["rho"]["n_pairs"].sum() > 0
    galaxies = open_tree(finished.output)["galaxies"]["restored_chi2"].values
    chi2 = found["galaxies/overall"].sel(quantity="chi2")
    np.testing.assert_allclose(chi2["mean"], np.nanmean(galaxies.astype(float)), rtol=1e-9)


def test_aggregate_run__twice_is_once(finished) -> None:
    first = aggregate_run(finished.output, rho=True)
    before = files_of(finished.output / "aggregates")
    (finished.output / ".psfscale/tallies/000000.npz").unlink()  # count again, not from memory
    assert aggregate_run(finished.output, rho=True) == first
    assert files_of(finished.output / "aggregates") == before
    assert verify(finished.output).ok


def test_aggregate_run__counts_again_only_what_changed(finished, monkeypatch) -> None:
    from psfscale.metrics.tables.count import Collector

    monkeypatch.setattr(tallying, "PART", 2)
    aggregate_run(finished.output)
    counted: list[str] = []
    add = Collector.add
    monkeypatch.setattr(
        Collector, "add", lambda self, e, **rest: (counted.append(e), add(self, e, **rest))
    )
    aggregate_run(finished.output)
    assert counted == []
    toy.append_exposure(finished.survey)
    run(finished, serial=True, observers=[])
    aggregate_run(finished.output)
    assert counted == ["exp-2"]  # parts of two exposures, of which the first stands
    assert read_aggregates(finished.output)["stars/overall"]["n_objects"] == 12 * 5


@pytest.mark.parametrize("damage", ["cut", "spoilt", "emptied"])
def test_aggregate_run__counts_again_where_what_it_kept_is_damaged(finished, damage) -> None:
    aggregate_run(finished.output)
    before = files_of(finished.output / "aggregates")
    kept = finished.output / ".psfscale/tallies/000000.npz"
    content = bytearray(kept.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    told = {"cut": content[: len(content) // 2], "spoilt": content, "emptied": b""}
    kept.write_bytes(told[damage])
    aggregate_run(finished.output)
    assert files_of(finished.output / "aggregates") == before


def test_aggregate_run__sorts_by_the_colour_of_each_spectrum(survey) -> None:
    toy.place_and_colour(survey)
    config = toy.make_config(survey)
    run(config, serial=True, observers=[])
    aggregate_run(config.output)
    table = read_aggregates(config.output)["stars/by_colour"].sel(quantity="e1_model")
    held = table.where(table["n"] > 0, drop=True)
    wavelengths = (toy.SPECTRA @ toy.WAVELENGTHS)[1:]  # the flat one stands for none
    np.testing.assert_allclose(held["wavelength"], wavelengths, atol=0.006)
    given = open_tree(config.survey)["stars"]
    for k in (1, 2):
        chosen = (given["sed_id"] == k) & (given["role"] > 0)
        assert int(held["n"][k - 1]) == int(chosen.sum())
    assert "stars/over_field" in read_aggregates(config.output)


def test_aggregates__open_with_plain_xarray(finished) -> None:
    aggregate_run(finished.output)
    with xr.open_datatree(finished.output, engine="zarr") as tree:
        table = tree["aggregates/stars/by_ccd"]
        assert table["mean"].dims == ("quantity", "ccd")
        assert float(table["mean"].sel(quantity="chi2", ccd=2)) > 0
        assert tree["aggregates"].attrs["exposures"] == 2


@pytest.fixture
def in_blocks(survey):
    """Four exposures in two blocks, and the same in one store; both run."""
    one = toy.make_survey(survey / "one.zarr", 4)
    scatter_over_sky(one)
    parts = [survey / "a.zarr", survey / "b.zarr"]
    for k, part in enumerate(parts):
        toy.make_survey(part, 4)
        scatter_over_sky(part)
        root = open_root(part, mode="r+")
        gone = slice(2, 4) if k == 0 else slice(0, 2)
        root["exposures/complete"][gone] = root["stars/role"][gone] = 0
        root["exposure"][gone] = root["exposures/id"][gone] = [f"gone-{k}-0", f"gone-{k}-1"]
    write_index(survey / "index.yaml", parts)
    whole = toy.make_config(survey, survey=one, output=survey / "whole.zarr")
    blocks = toy.make_config(survey, survey=survey / "index.yaml", output=survey / "runs")
    run(whole, serial=True, observers=[])
    run_blocks(blocks, serial=True, observers=[])
    return whole, blocks


@pytest.mark.parametrize("cluster", [None, LocalProfile(workers=2)])
def test_aggregate_run__of_blocks_is_that_of_one_store(in_blocks, cluster) -> None:
    """By the workers of a cluster too, which keep what they counted."""
    whole, blocks = in_blocks
    assert aggregate_run(blocks.output, rho=True, cluster=cluster) == aggregate_run(
        whole.output, rho=True
    )
    alone, together = read_aggregates(whole.output), read_aggregates(blocks.output)
    assert alone.keys() == together.keys()
    for name, table in alone.items():
        xr.testing.assert_identical(table.load(), together[name].load())
    stores = [block.output for block in configs(blocks).values()]
    again = aggregate_stores(stores[::-1], blocks.output, rho=True)
    xr.testing.assert_identical(again["rho"], alone["rho"])


def test_report_run__of_blocks_shows_the_tables_of_all(in_blocks, tmp_path) -> None:
    _, blocks = in_blocks
    aggregate_run(blocks.output, rho=True)
    report_run(blocks.output, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    n = 4 * 2 * toy.N_FILLED // 4
    assert 'id="by-ccd"' in page
    assert f"n = {n} reserved stars of all exposures" in page
    assert "<h3>Where they ran</h3>" in page


def test_aggregate_run__refuses_a_run_that_goes_on_but_takes_its_block(in_blocks) -> None:
    whole, blocks = in_blocks
    with Lease(whole.output), pytest.raises(RunError, match="held by another driver"):
        aggregate_run(whole.output)
    with Lease(configs(blocks)["a"].output):
        assert aggregate_run(blocks.output).values["n_exposures"] == 4


def test_metrics_of_stars__of_blocks_is_that_of_one_store(in_blocks, tmp_path) -> None:
    whole, blocks = in_blocks
    for suffix, read in ((".parquet", pd.read_parquet), (".csv", pd.read_csv)):
        tables = [tmp_path / f"whole{suffix}", tmp_path / f"blocks{suffix}"]
        rows = [metrics_of_stars(c.output, t) for c, t in zip((whole, blocks), tables, strict=True)]
        assert rows[0] == rows[1] == 4 * 2 * toy.N_FILLED
        pd.testing.assert_frame_equal(read(tables[0]), read(tables[1]))
    with pytest.raises(InputError, match=r"a table ends in \.parquet or \.csv"):
        metrics_of_stars(whole.output, tmp_path / "stars.fits")


def test_metrics__from_the_command_line_writes_every_table(finished) -> None:
    folder = finished.output.parent / "tables"
    with pytest.raises(InputError, match="has no tables yet"):
        write_tables(finished.output, folder)
    done = CliRunner().invoke(
        app, ["metrics", str(finished.output), "--tables", str(folder), "--rho"]
    )
    assert done.exit_code == 0
    names = {path.stem for path in folder.iterdir()}
    assert names >= {"stars-by_ccd", "stars-by_magnitude", "galaxies-overall", "rho"}
    frame = pd.read_parquet(folder / "stars-by_ccd.parquet")
    stored = read_aggregates(finished.output)["stars/by_ccd"]
    row = frame[(frame["quantity"] == "R2_residual") & (frame["ccd"] == 2)].iloc[0]
    same = stored.sel(quantity="R2_residual", ccd=2)
    assert (row["n"], row["mean"]) == (int(same["n"]), float(same["mean"]))


def test_aggregate_stores__refuse_what_has_no_metrics(survey) -> None:
    from psfscale.pipeline.runs.context import build_context
    from psfscale.pipeline.runs.store import create_run_store

    config = toy.make_config(survey)
    create_run_store(build_context(config))
    with pytest.raises(InputError, match="has metrics yet; `psfscale run` makes them"):
        aggregate_stores([config.output], config.output)
    with pytest.raises(StoreError, match=r"no run store at .*, and no folder of run stores"):
        aggregate_run(survey / "nothing")


def test_aggregate_run__keeps_the_rho_statistics_that_are_there(finished) -> None:
    aggregate_run(finished.output, rho=True)
    before = read_aggregates(finished.output)["rho"].load()
    aggregate_run(finished.output)
    xr.testing.assert_identical(read_aggregates(finished.output)["rho"].load(), before)


def test_aggregate_run__says_that_rho_needs_places_on_the_sky(finished) -> None:
    root = open_root(finished.survey, mode="r+")
    root["stars/ra"][...] = np.nan
    with pytest.raises(InputError, match="no exposure has two measured reserved stars with right"):
        aggregate_run(finished.output, rho=True)
    result = CliRunner().invoke(app, ["metrics", str(finished.output), "--serial", "--rho"])
    assert result.exit_code == 2


def test_report_and_tables__leave_the_old_file_where_the_disk_is_full(
    finished, tmp_path, monkeypatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    page, csv, parquet = (tmp_path / name for name in ("page.html", "stars.csv", "stars.parquet"))
    for path in (page, csv, parquet):
        path.write_text("old")
    monkeypatch.setattr("pathlib.Path.write_text", full)
    monkeypatch.setattr("pandas.DataFrame.to_csv", full)
    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
    for words in (
        ["report", finished.output, "-o", page],
        ["metrics", finished.output, "--serial", "--table", csv],
        ["metrics", finished.output, "--serial", "--table", parquet],
    ):
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 2, result.output
        assert f"{words[-1]}: No space left" in " ".join(result.output.split())
    assert [path.read_text() for path in (page, csv, parquet)] == ["old"] * 3
    assert not list(tmp_path.glob(".*.partial"))
