"""Reserved stars that are no fair test of a model stay out of the headline figures."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from gaussian_field import GaussianField, gaussian, star_set

from psfscale.arrays import STANDS_OUT, ObjectFlag, Role
from psfscale.metrics import measure_ccd

FIELD = GaussianField(sigma=1.8, e1_slope=0.1)


def measured(stars: xr.Dataset) -> xr.Dataset:
    flags = np.zeros(stars.sizes["star"], np.uint32)
    return measure_ccd(
        stars, FIELD, fit_flags=flags, pixel_scale=0.2, ccd_shape=(900, 1000), grid=2
    )


def with_light(stars: xr.Dataset, star: int, light: np.ndarray) -> xr.Dataset:
    image = stars["image"].values.copy()
    image[star] += light
    return stars.assign(image=(stars["image"].dims, image))


@pytest.fixture(scope="module")
def stars() -> xr.Dataset:
    return star_set(FIELD, n_stars=40, seed=5, flux=5000.0)


@pytest.fixture(scope="module")
def clean(stars: xr.Dataset) -> xr.Dataset:
    return measured(stars)


def test_stand_out__flags_no_clean_star(clean: xr.Dataset) -> None:
    assert int(clean["n_flagged"]) == 0
    assert not (clean["flags"].values & np.uint32(STANDS_OUT)).any()
    for name in ("e1_rmse", "R2_rmse", "model_rel_rmse", "star_power"):
        assert float(clean[f"{name}_all"]) == float(clean[name])


def neighbour(*, y: float, x: float, flux: float) -> np.ndarray:
    return flux * gaussian(shape=(25, 25), sigma=1.8, e1=0, e2=0, y=y, x=x)


def track() -> np.ndarray:
    hit = np.zeros((25, 25))
    hit[range(5, 20), range(5, 20)] = 800.0
    return hit


@pytest.mark.parametrize(
    "light",
    [neighbour(y=5, x=4, flux=3000.0), neighbour(y=0, x=2.5, flux=4000.0), track()],
    ids=["neighbour", "blend", "track"],
)
def test_stand_out__one_bad_reserved_star_rules_the_plain_figures_alone(
    stars: xr.Dataset, clean: xr.Dataset, light: np.ndarray
) -> None:
    bad = 10
    assert stars["role"][bad] == Role.RESERVED
    found = measured(with_light(stars, bad, light))
    assert found["flags"].values[bad] & np.uint32(STANDS_OUT)
    assert int(found["n_flagged"]) == 1
    assert int(found["n_reserved"]) == 8
    rest = np.flatnonzero((stars["role"].values == Role.RESERVED) & (np.arange(40) != bad))
    assert not (found["flags"].values[rest] & np.uint32(STANDS_OUT)).any()
    expected = (found["R2_star"] / found["R2_model"] - 1).values[rest]
    assert float(found["R2_rmse"]) == pytest.approx(np.sqrt((expected**2).mean()), rel=1e-4)
    assert float(found["model_rel_rmse_all"]) > 1.5 * float(found["model_rel_rmse"])
    assert float(found["model_rel_rmse"]) == pytest.approx(float(clean["model_rel_rmse"]), rel=0.05)


def test_stand_out__a_faint_neighbour_is_no_reason(stars: xr.Dataset) -> None:
    found = measured(with_light(stars, 10, neighbour(y=7, x=6, flux=60.0)))
    assert not found["flags"].values[10] & np.uint32(ObjectFlag.BLENDED | ObjectFlag.OUTLIER)


def test_stand_out__a_bad_model_does_not_empty_its_own_figures(stars: xr.Dataset) -> None:
    flags = np.zeros(stars.sizes["star"], np.uint32)
    wrong = GaussianField(sigma=3.0)
    found = measure_ccd(
        stars, wrong, fit_flags=flags, pixel_scale=0.2, ccd_shape=(900, 1000), grid=2
    )
    assert int(found["n_flagged"]) == 0
    assert float(found["model_rel_rmse"]) > 2 * float(found["mean_star_rel_rmse"])
