"""Stacks of galaxies: what is refused, and what is filled in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from psfscale.deconvolve.stack import galaxy_stack
from psfscale.errors import InputError

N, SIDE = 6, 15
RNG = np.random.default_rng(8)
IMAGES = RNG.normal(size=(N, SIDE, SIDE))
PSFS = np.full((N, 5, 5), 1 / 25)


def spoiled(array, value, index=(2, 3, 4)):
    out = array.copy()
    out[index] = value
    return out


@pytest.mark.parametrize(
    ("images", "psfs", "options", "message"),
    [
        (IMAGES[0], PSFS, {}, r"stack \(object, y, x\)"),
        ([["a"]], PSFS, {}, "must hold real numbers"),
        (spoiled(IMAGES, np.nan), PSFS, {}, r"1 galaxies have NaN.*\[2\]"),
        (IMAGES, PSFS[:4], {}, r"psfs have shape \(4, 5, 5\), expected \(6, y, x\)"),
        (IMAGES, 2 * PSFS, {}, "6 PSFs do not sum to 1.*number 0 sums to 2"),
        (IMAGES, spoiled(PSFS, np.nan), {}, "psfs must be finite"),
        (IMAGES, PSFS, {"weight": np.ones((N, 3, 3))}, "weight has shape"),
        (IMAGES, PSFS, {"weight": spoiled(np.ones_like(IMAGES), -1)}, "not negative"),
        (IMAGES, PSFS, {"weight": spoiled(np.ones_like(IMAGES), np.inf)}, "finite"),
        (IMAGES, PSFS, {"weight": np.ones_like(IMAGES), "sigma": 1.0}, "not both"),
        (IMAGES, PSFS, {"sigma": np.ones(3)}, "sigma has shape"),
        (IMAGES, PSFS, {"sigma": 0.0}, "positive"),
        (0 * IMAGES, PSFS, {}, "noise of 6 galaxies cannot be measured"),
        (IMAGES, PSFS, {"mask": np.ones((2, 2))}, "mask has shape"),
        (IMAGES, PSFS, {"mask": spoiled(np.zeros_like(IMAGES), 1, 3)}, r"everywhere.*\[3\]"),
    ],
)
def test_galaxy_stack__says_what_is_wrong(images, psfs, options, message):
    with pytest.raises(InputError, match=message):
        galaxy_stack(images, psfs, **options)


def test_galaxy_stack__masks_by_weight_or_mask_alike():
    images = spoiled(IMAGES, np.nan)
    by_mask = galaxy_stack(images, PSFS, mask=~np.isfinite(images), sigma=2.0)
    weight = np.where(np.isfinite(images), 0.25, 0)
    by_weight = galaxy_stack(images, PSFS, weight=weight)
    for one in (by_mask, by_weight):
        assert one.masked.tolist() == [False, False, True, False, False, False]
        assert float(one.image[2, 3, 4]) == 0
        assert not one.uniform
        np.testing.assert_allclose(one.sigma, 2)
    torch.testing.assert_close(by_mask.weight, by_weight.weight)


def test_galaxy_stack__estimates_the_noise_of_each_galaxy():
    scale = np.arange(1, 201)[:, None, None]
    images = np.random.default_rng(1).normal(size=(200, 41, 41)) * scale
    stack = galaxy_stack(images, np.eye(1)[None].repeat(200, 0))
    ratio = stack.sigma.numpy() / scale[:, 0, 0]
    assert stack.uniform
    # n = 200, seed 1: 2.6 % scatter a stamp
    assert ratio.mean() == pytest.approx(1, abs=0.01)
    assert np.abs(ratio - 1).max() < 0.15


def test_galaxy_stack__keeps_dtype_and_inputs():
    images, psfs = IMAGES.astype(np.float32), PSFS[0]
    before = images.copy()
    stack = galaxy_stack(images, psfs, mask=spoiled(np.zeros_like(IMAGES), 1))
    assert stack.image.dtype == stack.weight.dtype == stack.psf.dtype == torch.float32
    assert stack.fixed_psf
    np.testing.assert_array_equal(images, before)
    few = stack.select([1, 2])
    assert (len(few), few.psf.shape) == (2, (1, 5, 5))
