from __future__ import annotations

import galsim
import numpy as np
import pytest
from gaussian_field import gaussian

from psfscale.metrics import adaptive_moments


@pytest.mark.parametrize(("e1", "e2"), [(0.0, 0.0), (0.2, -0.1), (-0.3, 0.4)])
@pytest.mark.parametrize("side", [41, 48])
def test_adaptive_moments__of_a_gaussian_are_its_own(e1: float, e2: float, side: int) -> None:
    sigma, scale = 3.0, 0.1
    image = gaussian(shape=(side, side + 2), sigma=sigma, e1=e1, e2=e2, y=0.3, x=-0.2)
    found = adaptive_moments(image[None], pixel_scale=scale)
    assert found.ok.all()
    # HSM stops at 1e-6 of its own steps.
    np.testing.assert_allclose([found.e1[0], found.e2[0]], [e1, e2], atol=2e-6)
    np.testing.assert_allclose(found.R2[0], 2 * sigma**2 * scale**2, rtol=5e-6)
    np.testing.assert_allclose([found.y[0], found.x[0]], [0.3, -0.2], atol=1e-5)


def test_adaptive_moments__distortion_of_a_sheared_profile_is_the_one_applied() -> None:
    profile = galsim.Gaussian(sigma=0.5).shear(e1=0.15, e2=0.25)
    image = profile.drawImage(nx=61, ny=61, scale=0.1, method="no_pixel").array
    found = adaptive_moments(image[None], pixel_scale=0.1)
    np.testing.assert_allclose([found.e1[0], found.e2[0]], [0.15, 0.25], atol=1e-5)
    # Shear keeps the area: det M = sigma⁴, so R² = 2 sigma² / sqrt(1 − e²).
    np.testing.assert_allclose(found.R2[0], 2 * 0.25 / np.sqrt(1 - 0.15**2 - 0.25**2), rtol=1e-5)


def test_adaptive_moments__fwhm_of_a_gaussian_is_its_own() -> None:
    image = gaussian(shape=(41, 41), sigma=2.0, e1=0.0, e2=0.0)
    found = adaptive_moments(image[None], pixel_scale=0.2)
    np.testing.assert_allclose(found.fwhm[0], 2.0 * 0.2 * np.sqrt(8 * np.log(2)), rtol=1e-5)


def test_adaptive_moments__masked_pixels_are_not_read() -> None:
    image = np.repeat(gaussian(shape=(41, 41), sigma=2.5, e1=0.1, e2=0.0)[None], 3, axis=0)
    weight = np.ones_like(image)
    weight[:, 28:32, 8:12] = 0
    image[1][weight[1] == 0] = -1e30
    image[2][weight[2] == 0] = np.nan
    found = adaptive_moments(image, weight, pixel_scale=1.0)
    assert found.ok.all()
    assert np.ptp(found.e1) == np.ptp(found.e2) == np.ptp(found.R2) == 0


def test_adaptive_moments__what_cannot_be_measured_is_nan_and_said_so() -> None:
    good = gaussian(shape=(31, 31), sigma=2.0, e1=0.0, e2=0.0)
    astray = gaussian(shape=(31, 31), sigma=1.0, e1=0.0, e2=0.0, x=9.0)
    images = np.stack(
        [good, np.zeros_like(good), -good, np.where(good > 0.01, np.nan, good), astray]
    )
    found = adaptive_moments(images, pixel_scale=1.0)
    assert found.ok.tolist() == [True, False, False, False, False]
    for name in ("e1", "e2", "R2", "x", "y"):
        assert np.isfinite(getattr(found, name)).tolist() == found.ok.tolist()


def test_adaptive_moments__of_a_batch_are_those_of_its_images() -> None:
    images = np.stack([gaussian(shape=(31, 31), sigma=s, e1=0.1, e2=0.2) for s in (1.5, 2.0, 3.0)])
    whole = adaptive_moments(images, pixel_scale=1.0)
    single = [adaptive_moments(image[None], pixel_scale=1.0).R2[0] for image in images]
    assert whole.R2.tolist() == single


def test_adaptive_moments__of_no_image_are_empty() -> None:
    assert adaptive_moments(np.zeros((0, 9, 9)), pixel_scale=1.0).ok.shape == (0,)


@pytest.mark.parametrize(
    "jacobian",
    [
        [[0.1, 0.0], [0.0, 0.1]],
        [[0.06, -0.08], [0.08, 0.06]],  # rotated
        [[-0.1, 0.0], [0.0, 0.1]],  # flipped
        [[0.07, 0.09], [0.11, -0.05]],  # rotated, flipped and sheared
        [[0.2, 0.05], [0.02, 0.11]],
    ],
)
@pytest.mark.parametrize(("e1", "e2"), [(0.0, 0.0), (0.2, -0.1), (-0.3, 0.4)])
def test_moments__on_the_sky_are_galsims(jacobian: list[list[float]], e1: float, e2: float) -> None:
    image = gaussian(shape=(61, 65), sigma=3.0, e1=e1, e2=e2, y=0.3, x=-0.2)
    found = adaptive_moments(image[None], pixel_scale=0.25)
    sky = found.on_sky(np.array([jacobian]), pixel_scale=0.25)
    wcs = galsim.JacobianWCS(*np.ravel(jacobian))
    theirs = galsim.hsm.FindAdaptiveMom(
        galsim.Image(image, wcs=wcs), guess_sig=3.0, use_sky_coords=True
    )
    shape = theirs.observed_shape
    np.testing.assert_allclose([sky.e1[0], sky.e2[0]], [shape.e1, shape.e2], rtol=0, atol=1e-6)
    distortion = shape.e1**2 + shape.e2**2
    np.testing.assert_allclose(
        sky.R2[0], 2 * theirs.moments_sigma**2 / np.sqrt(1 - distortion), rtol=1e-6
    )


def test_moments__on_the_sky_are_nan_where_none_were_measured() -> None:
    found = adaptive_moments(np.zeros((1, 20, 20)), pixel_scale=0.2)
    sky = found.on_sky(np.eye(2)[None], pixel_scale=0.2)
    assert np.isnan([sky.e1[0], sky.e2[0], sky.R2[0]]).all()
