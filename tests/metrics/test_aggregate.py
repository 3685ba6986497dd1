from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import xarray as xr

from psfscale.arrays import ObjectFlag, Role
from psfscale.metrics import aggregate
from psfscale.metrics.aggregate import summarise
from psfscale.store.schema import RUN_SCHEMA

COUNTS = ("n_fit", "n_clipped", "n_reserved", "n_flagged", "n_measured", "n_measured_all")
SIZES = {"exposure": 4, "ccd": 3, "star": 10, "stamp_y": 5, "stamp_x": 5}
HERE = ("exposure", "ccd", "star")


def residuals(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.01, 0.02, [SIZES[d] for d in HERE])


def stores(n_reserved: np.ndarray) -> tuple[xr.Dataset, xr.Dataset, xr.Dataset]:
    """A run's stars and CCDs whose statistics follow from known per-star residuals."""
    shape = tuple(SIZES[d] for d in HERE)
    role = np.full(shape, Role.EMPTY, np.uint8)
    for at in np.ndindex(shape[:2]):
        if n_reserved[at]:
            role[at][: n_reserved[at]] = Role.RESERVED
            role[at][n_reserved[at] :] = Role.FIT
    delta, kept = residuals(), role == Role.RESERVED
    chi2 = np.where(role != Role.EMPTY, 1 + 10 * np.abs(delta), np.nan)
    n = kept.sum(axis=2)

    def over(values: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.where(kept, values, 0).sum(axis=2) / np.where(n, n, np.nan)

    power = np.where(n, n * 100.0, np.nan)
    ccds = dict.fromkeys(COUNTS, n)
    ccds["n_fit"] = (role == Role.FIT).sum(axis=2)
    ccds["n_flagged"] = np.zeros_like(n)
    ccds["n_clipped"] = np.minimum(ccds["n_fit"], 1)
    values = {
        "clipped_fraction": ccds["n_clipped"] / np.where(ccds["n_fit"], ccds["n_fit"], np.nan)
    }
    for name, frame in product(("e1", "e2", "R2"), ("", "_sky")):
        sign = -1 if frame else 1  # as if all CCDs were turned by a quarter
        values[f"{name}_bias{frame}"] = sign * over(delta)
        values[f"{name}_rmse{frame}"] = np.sqrt(over(delta**2))
    for name in ("model_rel_rmse", "noise_rel_rmse", "mean_star_rel_rmse"):
        values[name] = np.sqrt(over(delta**2) * n / power)
    values["star_power"] = power
    plain = [name for name in values if "rel_rmse" in name or "_bias" in name or "_rmse" in name]
    plain = [n for n in plain if not n.startswith(("noise", "mean_star"))] + ["star_power"]
    values |= {f"{name}_all": values[name] for name in plain}
    model = [f"psf_{name}{frame}" for name in ("e1", "e2", "R2") for frame in ("", "_sky")]
    for name in ("chi2_median", *model):
        values[name] = np.where(n, 0.5, np.nan)
    return (
        xr.Dataset({"chi2": (HERE, chi2), "flags": (HERE, np.zeros(shape, np.uint32))}),
        xr.Dataset({"role": (HERE, role)}),
        xr.Dataset({name: (HERE[:2], value) for name, value in {**ccds, **values}.items()}),
    )


N_RESERVED = np.array([[2, 3, 4], [1, 0, 5], [0, 0, 0], [6, 1, 2]])


def test_aggregate__is_the_statistic_of_the_stars_themselves() -> None:
    stars, survey_stars, ccds = stores(N_RESERVED)
    found = aggregate(stars, survey_stars, ccds)
    kept = survey_stars["role"].values == Role.RESERVED
    for i in (0, 1, 3):
        delta = residuals()[i][kept[i]]
        one = found["exposures"].isel(exposure=i)
        assert int(one["n_reserved"]) == len(delta)
        assert float(one["e1_bias"]) == pytest.approx(delta.mean(), rel=1e-12)
        assert float(one["R2_rmse"]) == pytest.approx(np.sqrt((delta**2).mean()), rel=1e-12)
        assert float(one["model_rel_rmse"]) == pytest.approx(
            np.sqrt((delta**2).sum() / (100 * len(delta))), rel=1e-12
        )
        assert float(one["chi2_median"]) == pytest.approx(np.median(1 + 10 * np.abs(delta)))
    everything = residuals()[kept]
    assert float(found["summary"]["e2_bias"]) == pytest.approx(everything.mean(), rel=1e-12)
    assert float(found["summary"]["e2_rmse"]) == pytest.approx(
        np.sqrt((everything**2).mean()), rel=1e-12
    )
    assert int(found["summary"]["n_ccds"]) == 8
    assert int(found["summary"]["n_exposures"]) == 3


def test_aggregate__exposures_without_metrics_count_for_nothing() -> None:
    found = aggregate(*stores(N_RESERVED))["exposures"].isel(exposure=2)
    assert int(found["n_ccds"]) == int(found["n_reserved"]) == 0
    assert np.isnan(float(found["e1_bias"]))
    assert np.isnan(float(found["model_rel_rmse"]))


def test_aggregate__blocks_of_exposures_merge() -> None:
    parts = stores(N_RESERVED)
    whole = aggregate(*parts)
    blocks = [
        aggregate(*(part.isel(exposure=at) for part in parts))["exposures"]
        for at in (slice(0, 1), slice(1, 4))
    ]
    joined = xr.concat(blocks, dim="exposure")
    xr.testing.assert_identical(joined, whole["exposures"])
    xr.testing.assert_identical(summarise(joined), whole["summary"])


def test_aggregate__again_gives_the_same() -> None:
    first, second = aggregate(*stores(N_RESERVED)), aggregate(*stores(N_RESERVED))
    for group in ("exposures", "summary"):
        xr.testing.assert_identical(first[group], second[group])


def test_aggregate__names_and_types_are_those_of_the_schema() -> None:
    found = aggregate(*stores(N_RESERVED))
    for group, dims in (("exposures", ("exposure",)), ("summary", ())):
        declared = {s.name: (s.dims, s.dtype) for s in RUN_SCHEMA if s.group == group}
        written = {n: (v.dims, v.dtype.str[1:]) for n, v in found[group].items()}
        assert written == declared
        assert all(value.dims == dims for value in found[group].values())


def test_aggregate__of_no_exposure_is_a_summary_of_nothing() -> None:
    found = aggregate(*(part.isel(exposure=slice(0, 0)) for part in stores(N_RESERVED)))
    assert int(found["summary"]["n_reserved"]) == 0
    assert np.isnan(float(found["summary"]["chi2_median"]))


def test_aggregate__shapes_along_the_sky_merge_as_those_along_the_pixels() -> None:
    found = aggregate(*stores(N_RESERVED))["summary"]
    for name in ("e1", "e2", "R2"):
        assert float(found[f"{name}_bias_sky"]) == pytest.approx(-float(found[f"{name}_bias"]))
        assert float(found[f"{name}_rmse_sky"]) == pytest.approx(float(found[f"{name}_rmse"]))


def test_aggregate__a_run_without_shapes_along_the_sky_has_none_in_its_aggregates() -> None:
    stars, survey, ccds = stores(N_RESERVED)
    earlier = ccds.drop_vars([name for name in ccds if str(name).endswith("_sky")])
    found, whole = aggregate(stars, survey, earlier), aggregate(stars, survey, ccds)
    for group, of_earlier in found.items():
        xr.testing.assert_identical(of_earlier, whole[group][list(of_earlier)])
        assert "e1_bias_sky" not in of_earlier


def test_aggregate__takes_the_median_chi2_of_stars_that_do_not_stand_out() -> None:
    stars, survey_stars, ccds = stores(N_RESERVED)
    kept = survey_stars["role"].values == Role.RESERVED
    flags = np.zeros(kept.shape, np.uint32)
    worst = np.unravel_index(np.argmax(np.where(kept, stars["chi2"], 0)), kept.shape)
    flags[worst] = ObjectFlag.BLENDED
    found = aggregate(stars.assign(flags=(HERE, flags)), survey_stars, ccds)["exposures"]
    i = worst[0]
    expected = np.median(stars["chi2"].values[i][kept[i] & (flags[i] == 0)])
    assert float(found["chi2_median"][i]) == expected


def test_aggregate__of_a_run_that_flagged_no_reserved_star_has_no_plain_figures() -> None:
    stars, survey_stars, ccds = stores(N_RESERVED)
    new = [name for name in ccds if name.endswith("_all") or name == "n_flagged"]
    found = aggregate(stars, survey_stars, ccds.drop_vars(new))
    full = aggregate(stars, survey_stars, ccds)
    for group in ("exposures", "summary"):
        assert set(full[group]) - set(found[group]) == set(new)
        xr.testing.assert_equal(found[group], full[group].drop_vars(new))
