from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from gaussian_field import GaussianField, gaussian, star_set
from scipy.ndimage import convolve1d

from psfscale.arrays import FieldPoints, ObjectFlag, PixelGrid, Role
from psfscale.metrics import measure_ccd
from psfscale.store.schema import RUN_SCHEMA

FIELD = GaussianField(sigma=1.8, e1_slope=0.2, e2=-0.05)
SCALE = 0.2


def measured(stars: xr.Dataset, model: Any = FIELD, flags: np.ndarray | None = None) -> xr.Dataset:
    flags = np.zeros(stars.sizes["star"], np.uint32) if flags is None else flags
    return measure_ccd(
        stars, model, fit_flags=flags, pixel_scale=SCALE, ccd_shape=(900, 1000), grid=4
    )


@pytest.fixture(scope="module")
def stars() -> xr.Dataset:
    return star_set(FIELD, n_stars=100, seed=3, capacity=112)


@pytest.fixture(scope="module")
def metrics(stars: xr.Dataset) -> xr.Dataset:
    return measured(stars)


def test_measure_ccd__names_and_types_are_those_of_the_schema(metrics: xr.Dataset) -> None:
    declared = {
        (spec.group, spec.name): (spec.dims[2:], spec.dtype)
        for spec in RUN_SCHEMA
        if spec.stage == "metrics"
    }
    found = {
        ("stars" if value.dims == ("star",) else "ccds", name): (value.dims, value.dtype.str[1:])
        for name, value in metrics.items()
    }
    assert found == declared


def test_measure_ccd__chi2_of_the_true_model_is_one(metrics: xr.Dataset) -> None:
    # n = 100 stars of 622 degrees of freedom, seed 3: the mean of their reduced chi² has a
    # standard error of sqrt(2/622/100) = 0.0057; four of them.
    assert float(metrics["chi2"].mean()) == pytest.approx(1, abs=0.023)
    assert float(metrics["chi2_median"]) == pytest.approx(1, abs=0.06)


def test_measure_ccd__true_model_reaches_the_noise(metrics: xr.Dataset) -> None:
    # 20 reserved stars of 625 pixels: their norm scatters by 1/sqrt(2·12500) = 0.6 %, and
    # the fit takes 3/625 of the power; four standard errors.
    ratio = float(metrics["model_rel_rmse"] / metrics["noise_rel_rmse"])
    assert ratio == pytest.approx(1 - 1.5 / 625, abs=0.025)


def test_measure_ccd__finds_flux_and_centroid(stars: xr.Dataset, metrics: xr.Dataset) -> None:
    at = slice(0, 100)
    # Flux of 2000 with noise 1 in a 1.8-pixel Gaussian: error 2·1.8·sqrt(π) = 6.4 a star,
    # 0.64 of the mean of 100; four standard errors.
    assert float(metrics["flux"][at].mean()) == pytest.approx(2000, abs=2.6)
    for axis, name in enumerate(("shift_y", "shift_x")):
        error = metrics[name].values[at] - stars["true_shift"].values[axis, at]
        # Error of a centroid: sqrt(8π)·sigma²/flux = 0.008 pixel; 0.0008 of the mean.
        assert abs(error.mean()) < 0.0035
        assert np.std(error) < 0.012


def test_measure_ccd__shapes_are_the_true_ones(stars: xr.Dataset, metrics: xr.Dataset) -> None:
    e1 = 0.2 * stars["x"].values[:100] / 1000
    np.testing.assert_allclose(metrics["e1_model"][:100], e1, atol=1e-5)
    np.testing.assert_allclose(metrics["e2_model"][:100], -0.05, atol=1e-5)
    np.testing.assert_allclose(metrics["R2_model"][:100], 2 * 1.8**2 * SCALE**2, rtol=1e-5)
    # e of a star: 2·sqrt(2)·noise·sqrt(π)·sigma·2/flux ~ 0.01; biases are means of 20.
    assert abs(float(metrics["e1_bias"])) < 0.01
    assert abs(float(metrics["R2_bias"])) < 0.01
    assert 0.003 < float(metrics["e1_rmse"]) < 0.03
    assert int(metrics["n_measured"]) == int(metrics["n_reserved"]) == 20


def test_measure_ccd__residuals_show_how_wrong_a_model_is(stars: xr.Dataset) -> None:
    wrong = GaussianField(sigma=1.8 * 1.02, e1_slope=0.2, e2=-0.05 + 0.03)
    found = measured(stars, wrong)
    # Well-sampled stars: the residual is the error itself. Standard errors as above.
    assert float(found["R2_bias"]) == pytest.approx(1 / 1.02**2 - 1, abs=0.01)
    assert float(found["e2_bias"]) == pytest.approx(-0.03, abs=0.01)
    assert float(found["model_rel_rmse"]) > float(measured(stars)["model_rel_rmse"])


def test_measure_ccd__undersampled_stars_are_all_measured() -> None:
    field = GaussianField(sigma=0.8)  # FWHM 1.9 pixels
    stars = star_set(field, n_stars=60, seed=8, side=21)
    found = measured(stars, GaussianField(sigma=0.84))
    assert not (found["flags"].values & ObjectFlag.MOMENTS_FAILED_DATA).any()
    # The part beyond the pixels' Nyquist frequency is not seen: a tenth may be missing.
    wanted = 0.8**2 / 0.84**2 - 1
    assert float(found["R2_bias"]) == pytest.approx(wanted, rel=0.12)


def test_measure_ccd__masked_pixels_are_not_read(stars: xr.Dataset) -> None:
    few = stars.isel(star=slice(0, 20)).copy(deep=True)
    few["weight"][:, 3:6, 14:20] = 0
    spoilt = few.copy(deep=True)
    spoilt["image"].values[few["weight"].values == 0] = -1e30
    spoilt["image"].values[3][few["weight"].values[3] == 0] = np.nan
    xr.testing.assert_identical(measured(few), measured(spoilt))


def test_measure_ccd__a_star_with_a_masked_core_is_flagged(stars: xr.Dataset) -> None:
    few = stars.isel(star=slice(0, 10)).copy(deep=True)
    few["weight"][4, 11:14, 11:14] = 0
    few["weight"][7] = 0
    found = measured(few)
    failed = (found["flags"].values & ObjectFlag.MOMENTS_FAILED_DATA) != 0
    assert np.flatnonzero(failed).tolist() == [4, 7]
    assert np.isnan(found["e1_star"].values).tolist() == failed.tolist()
    assert np.isfinite(found["chi2"].values[4])
    assert np.isnan(found["chi2"].values[7])
    assert found["flags"].values[7] & ObjectFlag.NOT_CONVERGED


def test_measure_ccd__a_model_of_nan_is_flagged_not_raised(stars: xr.Dataset) -> None:
    class Nowhere(GaussianField):
        def predict(self, at: FieldPoints, grid: PixelGrid) -> np.ndarray:
            return np.full((len(at), *grid.shape), np.nan)

    found = measured(stars.isel(star=slice(0, 5)), Nowhere())
    both = ObjectFlag.MOMENTS_FAILED_MODEL | ObjectFlag.MOMENTS_FAILED_DATA
    assert ((found["flags"].values & both) == both).all()
    assert np.isnan(float(found["psf_R2"]))


def test_measure_ccd__counts_clipped_stars_and_padding(stars: xr.Dataset) -> None:
    flags = np.zeros(112, np.uint32)
    flags[[1, 2, 5]] = ObjectFlag.OUTLIER  # 5 is reserved
    found = measured(stars, flags=flags)
    assert int(found["n_fit"]) == 80
    assert int(found["n_clipped"]) == 2
    assert float(found["clipped_fraction"]) == np.float32(2 / 80)
    assert np.isnan(found["flux"].values[100:]).all()
    assert (found["flags"].values[100:] == 0).all()


def test_measure_ccd__permuting_the_stars_permutes_the_result(stars: xr.Dataset) -> None:
    order = np.random.default_rng(0).permutation(30)
    few = stars.isel(star=slice(0, 30))
    straight, shuffled = measured(few), measured(few.isel(star=order))
    for name in ("flux", "chi2", "e1_star", "R2_model"):
        # Sums of float64 in another order of the batch, stored as float32.
        np.testing.assert_allclose(
            shuffled[name].values, straight[name].values[order], rtol=1e-5, atol=1e-7
        )
    assert float(shuffled["e1_bias"]) == pytest.approx(float(straight["e1_bias"]), abs=1e-6)


def test_measure_ccd__mean_star_explains_a_constant_field_and_not_a_varying_one() -> None:
    found = {}
    for slope in (0.0, 0.5):
        field = GaussianField(sigma=1.8, e1_slope=slope)
        found[slope] = measured(star_set(field, n_stars=60, seed=2, flux=5000.0), field)
    ratio = {k: float(v["mean_star_rel_rmse"] / v["model_rel_rmse"]) for k, v in found.items()}
    # The mean of 48 stars adds 1/48 of a star's noise power, 1 %; doubled.
    assert 0.99 < ratio[0.0] < 1.02
    assert ratio[0.5] > 1.2


def test_measure_ccd__stacks_are_the_star_and_its_residual(stars: xr.Dataset) -> None:
    found = measured(stars)
    mean, residual = found["mean_star"].values, found["mean_residual"].values
    assert mean.shape == residual.shape == (75, 75)
    assert np.unravel_index(mean.argmax(), mean.shape) == (37, 37)
    assert mean.sum() / 9 == pytest.approx(1, abs=0.02)
    # 20 stars of noise 1 and flux 2000: 1.1e-4 a pixel, and a cell is about one pixel of each.
    assert np.std(residual) == pytest.approx(1 / 2000 / np.sqrt(20), rel=0.15)


def test_measure_ccd__stacks_of_undersampled_stars_do_not_ring() -> None:
    """Stars of 1.4 pixels FWHM and a model too wide: single stars have no light far out."""
    true, model = GaussianField(sigma=0.6, e2=0.05), GaussianField(sigma=0.66)
    found = measured(star_set(true, n_stars=200, seed=5, noise=1e-6), model)
    mean, residual = found["mean_star"].values, found["mean_residual"].values
    y, x = np.indices(mean.shape) - 37
    far = np.hypot(y, x) > 3.5 * 3
    # Pixels moved by sinc interpolation, as stacks were before, leave 1.6e-3 along the axes.
    assert np.abs(residual[far]).max() < 1e-5 * mean.max()
    assert np.abs(mean[far]).max() < 1e-5 * mean.max()
    # What is left is the error of the model, as drops on cells see it.
    flux = np.nanmean(found["flux"]) / 2000
    size = (301, 301)  # 30 samples a pixel
    star, drawn = (
        gaussian(shape=size, **{**field.shape_at(0), "sigma": 30 * field.sigma}) * 900
        for field in (true, model)
    )
    away = np.arange(-20, 21) / 30
    drop = np.clip(np.minimum(1 / 6, 0.4 - np.abs(away)) + 1 / 6, 0, None)
    seen = star / flux - drawn
    for axis in (0, 1):
        seen = convolve1d(seen, drop / drop.sum(), axis=axis)
    expected = seen[10:-10:10, 10:-10:10]
    # Flux and centroid of each star take up a part of the error that depends on its phase.
    assert np.corrcoef(residual[23:52, 23:52].ravel(), expected.ravel())[0, 1] > 0.95


def test_measure_ccd__masked_pixels_leave_the_stack_alone(stars: xr.Dataset) -> None:
    spoilt = stars.copy(deep=True)
    spoilt["image"][::3, 12, 14], spoilt["weight"][::3, 12, 14] = 1e5, 0
    before, after = (measured(s)["mean_residual"].values for s in (stars, spoilt))
    assert np.isfinite(after).all()
    assert np.abs(after - before).max() < 5e-4  # noise of 20 stars: 1.1e-4


TURNED = np.array([[0.12, -0.16], [-0.16, -0.12]])  # of the scale 0.2, turned and mirrored


def test_measure_ccd__shapes_along_the_sky_follow_the_jacobian(stars: xr.Dataset) -> None:
    placed = stars.assign(
        jacobian=(("star", "sky", "pixel"), np.broadcast_to(TURNED, (112, 2, 2)).copy())
    )
    found = measured(placed)
    for of in ("star", "model"):
        e1, e2, size = (found[f"{name}_{of}"].values for name in ("e1", "e2", "R2"))
        matrix = np.stack([1 + e1, e2, e2, 1 - e1], -1).reshape(-1, 2, 2)
        turned = TURNED @ matrix @ TURNED.T / 0.04
        expected = (turned[:, 0, 0] - turned[:, 1, 1]) / 2, turned[:, 0, 1]
        np.testing.assert_allclose(found[f"e1_{of}_sky"], expected[0], atol=1e-6)
        np.testing.assert_allclose(found[f"e2_{of}_sky"], expected[1], atol=1e-6)
        np.testing.assert_allclose(found[f"R2_{of}_sky"], size, rtol=1e-6)
    assert float(found["psf_e2_sky"]) == pytest.approx(
        -0.96 * float(found["psf_e1"]) + 0.28 * float(found["psf_e2"]), abs=1e-6
    )


def test_measure_ccd__without_a_wcs_the_skys_axes_are_the_pixels(metrics: xr.Dataset) -> None:
    for name in [str(name) for name in metrics if str(name).endswith("_sky")]:
        np.testing.assert_allclose(metrics[name], metrics[name.removesuffix("_sky")], rtol=1e-6)


def test_measure_ccd__without_reserved_or_fit_stars_says_nothing(stars: xr.Dataset) -> None:
    few = stars.isel(star=slice(0, 6)).copy(deep=True)
    few["role"][:] = Role.FIT
    found = measured(few)
    assert int(found["n_reserved"]) == 0
    for name in ("chi2_median", "model_rel_rmse", "mean_star_rel_rmse", "e1_bias"):
        assert np.isnan(float(found[name])), name
    few["role"][:] = Role.RESERVED
    assert np.isnan(float(measured(few)["mean_star_rel_rmse"]))
    assert np.isfinite(float(measured(few)["model_rel_rmse"]))
    few["role"][:] = Role.EMPTY
    empty = measured(few)
    assert int(empty["n_fit"]) == int(empty["n_reserved"]) == 0
    assert np.isnan(empty["flux"].values).all()
