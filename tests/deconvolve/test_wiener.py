"""The Wiener filter against its closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from deconvolution_scene import scene

from psfscale.deconvolve.wiener import wiener


def delta(side=5):
    psf = torch.zeros(1, side, side, dtype=torch.float64)
    psf[0, side // 2, side // 2] = 1
    return psf


@pytest.mark.parametrize("power", [0.5, 3.0])
def test_wiener__of_white_galaxies_shrinks_by_signal_over_signal_plus_noise(power):
    rng = np.random.default_rng(1)
    image = torch.from_numpy(rng.normal(0, np.sqrt(1 + power), (300, 16, 16)))
    found = wiener(image, psf=delta())
    factor = float((found * image).sum() / (image**2).sum())
    # The spectrum is made to fall, so that it follows the lowest of some ten rings: to 5 %.
    assert factor == pytest.approx(power / (1 + power), rel=0.05)


def test_wiener__without_noise_is_the_inverse():
    field = scene(6, snr=1e6, psf_width=(0.6, 0.8))
    image = torch.from_numpy(field.images / field.sigma)
    found = wiener(image, psf=torch.from_numpy(field.psfs)) * field.sigma
    error = ((found.numpy() - field.truth) ** 2).sum((1, 2)) / (field.truth**2).sum((1, 2))
    assert error.max() < 1e-4


def test_wiener__of_noise_alone_is_nearly_dark():
    noise = torch.from_numpy(np.random.default_rng(2).normal(size=(200, 16, 16)))
    found = wiener(noise, psf=delta())
    assert float((found**2).mean()) < 0.01


def test_wiener__takes_masked_pixels_for_dark_sky():
    field = scene(6, snr=20)
    image, psf = torch.from_numpy(field.images / field.sigma), torch.from_numpy(field.psfs)
    weight = torch.ones_like(image)
    weight[:, :4, :4] = 0
    spoiled = torch.where(weight > 0, image, 1e3)
    found, dark = wiener(spoiled, psf=psf, weight=weight), wiener(image * weight, psf=psf)
    torch.testing.assert_close(found, dark)
