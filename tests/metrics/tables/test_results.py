from __future__ import annotations

import crowd
import numpy as np
import pytest

from psfscale.arrays import Role
from psfscale.metrics import rho_statistics
from psfscale.metrics.tables.axes import axes_of
from psfscale.metrics.tables.histogram import ACCURACY, LARGEST, N_BINS, SMALLEST, bin_of, quantiles
from psfscale.metrics.tables.tables import QUANTILES, as_frame, results

SEEDS = range(6)
IDS = np.array([11, 12, 13])


@pytest.fixture(scope="module")
def tables():
    return results(crowd.tally(SEEDS, rho=True), crowd.AXES, ccds=IDS)


@pytest.fixture(scope="module")
def stars():
    """All stars with their residuals, computed without the code under test."""
    found = crowd.flat(crowd.stars, SEEDS)
    reserved = found["role"] == Role.RESERVED
    for name in ("e1", "e2"):
        delta = found[f"{name}_star"].astype(float) - found[f"{name}_model"].astype(float)
        found[f"{name}_residual"] = np.where(reserved, delta, np.nan)
    size = found["R2_model"].astype(float)
    found["R2_residual"] = np.where(
        reserved, (found["R2_star"].astype(float) - size) / size, np.nan
    )
    found["reserved"] = reserved
    return found


def require_statistics(table, values, flux, at=None):
    """What a table says of one quantity and cell is what numpy says of its values."""
    finite = np.isfinite(values)
    one = table if at is None else table.isel(at)
    assert int(one["n"]) == finite.sum()
    if not finite.any():
        return
    v, w = values[finite], flux[finite]
    np.testing.assert_allclose(one["mean"], v.mean(), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(one["sd"], v.std(), rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(one["flux_weighted_mean"], np.average(v, weights=w), rtol=1e-9)
    if "quantile" in one:
        exact = np.quantile(v, QUANTILES, method="lower")
        np.testing.assert_allclose(one["quantile"], exact, rtol=1.001 * ACCURACY, atol=SMALLEST)


@pytest.mark.parametrize("name", ["e1_residual", "R2_residual"])
def test_results__by_ccd_and_magnitude_are_numpys(tables, stars, name) -> None:
    for ccd, identity in enumerate(IDS):
        values = np.where(stars["ccd"] == ccd, stars[name], np.nan)
        table = tables["stars/by_ccd"].sel(quantity=name, ccd=identity)
        require_statistics(table, values, stars["flux"])
    magnitude = -2.5 * np.log10(stars["flux"])
    table = tables["stars/by_magnitude"].sel(quantity=name)
    for k, centre in enumerate(table["magnitude"].values):
        inside = (magnitude >= centre - 0.25) & (magnitude < centre + 0.25)
        require_statistics(
            table, np.where(inside, stars[name], np.nan), stars["flux"], {"magnitude": k}
        )
    assert table["n"].sum() == np.isfinite(stars[name]).sum()


def test_results__by_colour_take_stars_whose_spectrum_is_known(tables, stars) -> None:
    table = tables["stars/by_colour"].sel(quantity="R2_residual")
    known = np.isfinite(stars["colour"])
    assert int(table["n"].sum()) == (known & np.isfinite(stars["R2_residual"])).sum()
    red = stars["colour"] == 0.81
    require_statistics(
        table.sel(wavelength=0.81, method="nearest"),
        np.where(red, stars["R2_residual"], np.nan),
        stars["flux"],
    )


def test_results__over_the_field_are_means_in_cells(tables, stars) -> None:
    table = tables["stars/over_field"].sel(quantity="e2_model")
    y, x = table["field_y"].values, table["field_x"].values
    cell = x[1] - x[0]
    assert cell == pytest.approx(y[1] - y[0])
    edges = (
        np.append(y - cell / 2, y[-1] + cell / 2),
        np.append(x - cell / 2, x[-1] + cell / 2),
    )
    at = stars["field_y"], stars["field_x"]
    n, *_ = np.histogram2d(*at, bins=edges)
    total, *_ = np.histogram2d(*at, bins=edges, weights=stars["e2_model"].astype(float))
    np.testing.assert_array_equal(table["n"], n)
    assert n.sum() == len(stars["flux"])
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(table["mean"], total / n, rtol=1e-9, atol=1e-12)


def test_results__over_the_ccds_sum_to_those_by_ccd(tables) -> None:
    over = tables["stars/over_ccd"]
    assert (over.sizes["y"], over.sizes["x"]) == (16, 8)
    np.testing.assert_array_equal(over["n"].sum(["y", "x"]), tables["stars/by_ccd"]["n"])


def test_results__of_galaxies_are_weighted_by_flux(tables) -> None:
    found = crowd.flat(crowd.galaxies, SEEDS)
    ratio = found["restored_flux"] / found["flux"] - 1
    table = tables["galaxies/overall"]
    require_statistics(table.sel(quantity="flux_residual"), ratio, found["flux"])
    require_statistics(table.sel(quantity="e1"), found["restored_e1"], found["flux"])
    flagged = table["n_flagged"].sel(flag="MOMENTS_FAILED_DATA")
    assert int(flagged) == ((found["restored_flags"] & 32) != 0).sum()
    assert int(table["n_objects"]) == len(ratio)


def test_results__count_the_flags_of_every_star(tables, stars) -> None:
    flags = stars["flags"] | stars["fit_flags"]
    table = tables["stars/by_ccd"]
    for name, bit in (("OUTLIER", 16), ("NOT_CONVERGED", 512), ("EDGE", 1)):
        expected = [((flags[stars["ccd"] == ccd] & bit) != 0).sum() for ccd in range(3)]
        assert table["n_flagged"].sel(flag=name).values.tolist() == expected


def test_results__hold_the_rho_statistics_of_all_exposures(tables) -> None:
    frames = [crowd.flat(crowd.stars, [seed]) for seed in SEEDS]
    for frame in frames:
        frame["reserved"] = frame["role"] == Role.RESERVED
    expected = rho_statistics(frames)
    for name in expected:
        np.testing.assert_allclose(tables["rho"][name], expected[name], rtol=1e-9)
    assert np.isfinite(tables["rho"]["rho1_error"]).any()


def test_results__leave_out_what_there_is_nothing_of() -> None:
    collector = crowd.Collector(crowd.AXES, rho=False)
    arrays, use = crowd.stars(1)
    collector.add("one", stars=({**arrays, "colour": np.full_like(arrays["x"], np.nan)}, use))
    found = results(collector.tally(), crowd.AXES)
    assert set(found) == {
        f"stars/{name}" for name in ("overall", "by_ccd", "by_magnitude", "over_field", "over_ccd")
    }


def test_frame__has_a_row_for_every_quantity_and_cell_with_objects(tables) -> None:
    table = tables["stars/by_magnitude"]
    frame = as_frame(table)
    assert len(frame) == int((table["n"] > 0).sum())
    assert {"quantity", "magnitude", "n", "mean", "sd", "q05", "q50", "units"} <= set(frame)
    row = frame[frame["quantity"] == "chi2"].iloc[0]
    same = table.sel(quantity="chi2", magnitude=row["magnitude"])
    assert row["q84"] == float(same["quantile"].sel(quantile_at=0.84))
    assert set(as_frame(tables["stars/over_field"])) >= {"field_x", "field_y", "n", "mean"}
    assert len(as_frame(tables["rho"])) == tables["rho"].sizes["bin"]


def test_quantiles__are_within_their_accuracy_from_tiny_to_huge() -> None:
    rng = np.random.default_rng(3)
    values = rng.choice([-1, 1], 5000) * 10 ** rng.uniform(-7, np.log10(LARGEST), 5000)
    counts = np.bincount(bin_of(values), minlength=N_BINS)
    at = tuple(np.linspace(0, 1, 101))
    exact = np.quantile(values, at, method="lower")
    found = quantiles(counts, at)
    np.testing.assert_allclose(found, exact, rtol=1.0001 * ACCURACY, atol=SMALLEST)
    assert np.isnan(quantiles(np.zeros(N_BINS, int), at)).all()


def test_axes__without_a_layout_reach_far_enough_for_all_ccds() -> None:
    field = next(a for a in axes_of(crowd.instrument("reference_pixel")) if a.name == "over_field")
    rows, columns = field.edges
    assert columns.stop >= 10 * crowd.N_CCDS / 2
    outside = {"field_x": np.array([0.0, 1e4, np.nan]), "field_y": np.zeros(3)}
    assert field.cells(outside)[1:].tolist() == [-1, -1]
    assert field.cells(outside)[0] >= 0
    assert rows.n == columns.n
