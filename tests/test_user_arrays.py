"""The door for users' arrays: every kind of array gives the same numbers, or a sentence."""

from __future__ import annotations

from typing import Any

import astropy.units as u
import numpy as np
import pytest
import torch
import xarray as xr
from astropy.table import MaskedColumn, Table
from astropy.utils.masked import Masked

from psfscale import RCA, SPRITE, FieldPoints, PixelGrid, StarBatch, deconvolve
from psfscale.errors import InputError
from psfscale.metrics import adaptive_moments
from psfscale.models.sprite.field import SpriteField
from psfscale.user_arrays import finite_numbers, plain_numbers, read_numbers

PLAIN = np.arange(12, dtype=np.float32).reshape(3, 4)

SAME = {
    "big-endian": PLAIN.astype(">f4"),
    "reversed": PLAIN[::-1].copy()[::-1],
    "fortran": np.asfortranarray(PLAIN),
    "strided": np.repeat(PLAIN, 2, axis=1)[:, ::2],
    "int16": PLAIN.astype(np.int16),
    "uint8": PLAIN.astype(np.uint8),
    "float16": PLAIN.astype(np.float16),
    "float64": PLAIN.astype(np.float64),
    "longdouble": PLAIN.astype(np.longdouble),
    "int64": PLAIN.astype(np.int64),
    "list": PLAIN.tolist(),
    "objects": PLAIN.astype(object),
    "xarray": xr.DataArray(PLAIN),
    "torch": torch.tensor(PLAIN),
    "bfloat16": torch.tensor(PLAIN).bfloat16(),
    "requires_grad": torch.tensor(PLAIN, requires_grad=True),
    "masked": np.ma.array(PLAIN),
    "quantity": u.Quantity(PLAIN, "electron"),
    "column": Table({"a": PLAIN})["a"],
    "read-only": np.frombuffer(PLAIN.tobytes(), np.float32).reshape(3, 4),
}


@pytest.mark.parametrize("kind", SAME)
def test_door__gives_the_same_numbers_for_every_kind(kind: str) -> None:
    plain = read_numbers(SAME[kind], "a").values
    np.testing.assert_array_equal(plain, PLAIN)
    assert type(plain) is np.ndarray
    assert plain.dtype in (np.float32, np.float64)
    assert plain.dtype.isnative
    assert plain.flags.c_contiguous
    assert plain.flags.writeable
    torch.from_numpy(plain)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.array(["a"]), "a must hold real numbers, got <U1"),
        (PLAIN * 1j, "real numbers, got complex64"),
        ([[1], [1, 2]], "a is not an array of numbers"),
        (np.array(["2020-01-01"], "M8[D]"), "must hold real numbers"),
        (u.Quantity(PLAIN, "arcsec"), "a is in arcsec, which does not convert to pixel"),
        (np.ma.array([1.0, 2.0], mask=[False, True]), r"a is masked in 1 places \(first: \[1\]"),
        (MaskedColumn([1.0, 2.0], mask=[True, False]), r"a is masked in 1 places \(first: \[0\]"),
        ([1.0, np.nan], r"a must be finite: 1 of 2 values .* \(first: \[1\]"),
    ],
)
def test_door__refuses_by_name(values: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        finite_numbers(values, "a", unit="pixel")


def test_door__converts_units() -> None:
    x = finite_numbers([500, 600] * u.nm, "wavelength", unit="um")
    np.testing.assert_allclose(x, [0.5, 0.6], rtol=1e-6)
    assert plain_numbers(3 * u.pixel, "x", unit="pixel").shape == ()


# ------------------------------------------------------------------ what the rooms make of it


def stars(n: int = 40) -> dict[str, Any]:
    """Round Gaussian stars of noise 2, a tenth of which have a wrong patch."""
    rng = np.random.default_rng(4)
    x, y = rng.uniform(0, 500, (2, n))
    dy, dx = rng.uniform(-0.5, 0.5, (2, n, 1, 1))
    rows, columns = np.mgrid[:17, :17] - 8.0
    image = 900 * np.exp(-((rows - dy) ** 2 + (columns - dx) ** 2) / 5)
    image += rng.normal(0, 2, image.shape)
    return {"image": image, "weight": np.full(image.shape, 0.25), "x": x, "y": y}


AT = FieldPoints(x=np.array([250.0]), y=np.array([250.0]))
GRID = PixelGrid(shape=(17, 17))


def psf_of(model: Any, batch: StarBatch) -> np.ndarray:
    model.fit(batch)
    return np.asarray(model.predict(AT, GRID)).copy()


def test_star_batch__masked_pixels_get_weight_0() -> None:
    given = stars()
    bad = np.zeros(given["image"].shape, bool)
    bad[::4, 2:5, 3:7] = True
    given["image"][bad] = 3e4
    zero = np.where(bad, 0, given["weight"])
    expected = psf_of(RCA(n_components=1, upsampling=1), StarBatch(**{**given, "weight": zero}))
    for masked in (
        {"image": np.ma.array(given["image"], mask=bad)},
        {"weight": np.ma.array(given["weight"], mask=bad)},
        {"image": Masked(given["image"] * u.electron, mask=bad)},
    ):
        batch = StarBatch(**{**given, **masked})
        assert (batch.weight == zero).all()
        psf = psf_of(RCA(n_components=1, upsampling=1), batch)
        np.testing.assert_array_equal(psf, expected)


def test_star_batch__weights_convert_to_the_images_unit() -> None:
    given = stars()
    batch = StarBatch(
        image=given["image"] * u.mJy,
        weight=given["weight"] * 1e6 / u.Jy**2,
        x=given["x"] * u.pixel,
        y=torch.tensor(given["y"]),
    )
    np.testing.assert_allclose(batch.weight, given["weight"])
    with pytest.raises(InputError, match="weight is in 1 / s"):
        StarBatch(**{**given, "image": given["image"] * u.mJy, "weight": given["weight"] / u.s})


@pytest.mark.parametrize("name", ["x", "y"])
def test_field_points__refuse_nan_by_name(name: str) -> None:
    at = {"x": [1.0, 2.0], "y": [1.0, 2.0], name: [1.0, np.nan]}
    with pytest.raises(InputError, match=f"{name} must be finite"):
        FieldPoints(**at)


@pytest.mark.parametrize(
    "model", [lambda: RCA(n_components=1, upsampling=1), lambda: SpriteField(upsampling=1)]
)
@pytest.mark.parametrize("unit", [1e-25, 1e25])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fit__does_not_depend_on_the_flux_unit(model: Any, unit: float, dtype: Any) -> None:
    given = stars()
    first, second = model(), model()
    expected = first.fit(StarBatch(**given))
    image = (given["image"] * unit).astype(dtype)
    report = second.fit(StarBatch(**{**given, "image": image, "weight": given["weight"] / unit**2}))
    np.testing.assert_allclose(report.flux / unit, expected.flux, rtol=1e-3)
    np.testing.assert_allclose(report.flux_error / unit, expected.flux_error, rtol=1e-2)
    assert report.reduced_chi2 == pytest.approx(expected.reduced_chi2, rel=1e-3)
    psf, other = (np.asarray(m.predict(AT, GRID)) for m in (first, second))
    np.testing.assert_allclose(other, psf, atol=2e-5)


def test_sprite__takes_masks_and_any_flux_unit() -> None:
    given = stars(4)
    image, weight = (given[name][None] for name in ("image", "weight"))
    bad = np.zeros(image.shape, bool)
    bad[0, ::2, 2:4, 3:6] = True
    image = np.where(bad, 3e4, image)
    expected = SPRITE(upsampling=1).fit(image, weight=weight, mask=bad)
    masked = SPRITE(upsampling=1).fit(np.ma.array(image.astype(">f8"), mask=bad), weight=weight)
    np.testing.assert_allclose(masked.psf, expected.psf, rtol=0, atol=0)
    small = SPRITE(upsampling=1).fit(image * 1e-25, weight=weight * 1e50, mask=bad)
    np.testing.assert_allclose(small.psf, expected.psf, rtol=0, atol=1e-6)
    np.testing.assert_allclose(small.flux * 1e25, expected.flux, rtol=1e-5, atol=0)
    np.testing.assert_allclose(small.noise * 1e25, expected.noise, rtol=1e-5, atol=0)


def galaxies() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(8)
    rows, columns = np.mgrid[:21, :21] - 10.0
    psf = np.exp(-(rows**2 + columns**2) / 4)
    image = 50 * np.exp(-(rows**2 + columns**2) / 16) * np.ones((6, 1, 1))
    return image + rng.normal(0, 1, image.shape), psf / psf.sum()


@pytest.mark.parametrize("mode", ["learnt", "sparse", "grad"])
def test_deconvolve__takes_masks_and_any_flux_unit(mode: Any) -> None:
    image, psf = galaxies()
    bad = np.zeros(image.shape, bool)
    bad[::3, 3:6, 4:9] = True
    image[bad] = 3e3
    expected = deconvolve(image, psf, sigma=1.0, mask=bad, mode=mode)
    masked = deconvolve(np.ma.array(image, mask=bad), psf, sigma=1.0, mode=mode)
    np.testing.assert_allclose(masked.image, expected.image, rtol=0, atol=0)
    assert (masked.flags[::3] & 2).all()
    for unit in (1e-25, 1e25):
        given = (image * unit).astype(np.float32)
        weight = np.where(bad, 0, unit**-2.0)
        other = deconvolve(given, psf, weight=weight, mode=mode)
        assert other.image.dtype == np.float32
        found = other.image.astype(float) / unit
        assert np.abs(found - expected.image).max() < 2e-3 * expected.image.max()
        np.testing.assert_allclose(other.chi2, expected.chi2, rtol=1e-2, atol=0)
        if other.error is not None:
            error = other.error.astype(float) / unit
            np.testing.assert_allclose(error, expected.error, rtol=2e-2, atol=1e-3)
        if hasattr(other, "profile"):
            flux = other.profile.flux.astype(float) / unit
            np.testing.assert_allclose(flux, expected.profile.flux, rtol=1e-2, atol=0)


def test_moments__take_masks_and_do_not_depend_on_the_flux_unit() -> None:
    image, _ = galaxies()
    bad = np.zeros(image.shape, bool)
    bad[:, 2, 2] = True
    image[bad] = 1e4
    expected = adaptive_moments(image, ~bad, pixel_scale=1.0)
    for given in (np.ma.array(image, mask=bad), np.ma.array(image * 1e-25, mask=bad)):
        found = adaptive_moments(given, pixel_scale=1.0)
        np.testing.assert_allclose(found.R2, expected.R2, rtol=1e-6)
