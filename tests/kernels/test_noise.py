"""Noise of stamps: unbiased, whatever the object's light, mask and batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from psfscale.kernels.noise import stamp_noise

N, SIDE = 200, 41


def galaxies(peak, seed=1):
    """Round exponential profiles of 3-pixel scale under noise of unit variance."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    light = peak * np.exp(-np.hypot(y, x) / 3)
    return torch.from_numpy(light + rng.normal(size=(N, SIDE, SIDE)))


@pytest.mark.parametrize("peak", [0, 30, 1000])
def test_stamp_noise__does_not_see_the_galaxy(peak):
    # n = 200 stamps, seed 1; a stamp's own scatter is 2.6 %, so the mean's is 0.2 %
    image = galaxies(peak)
    sigma = stamp_noise(image, good=torch.ones_like(image, dtype=torch.bool))
    assert float(sigma.mean()) == pytest.approx(1, abs=0.01)
    assert float(sigma.std()) < 0.035


def test_stamp_noise__leaves_masked_pixels_out_and_takes_any_batch():
    image = galaxies(0)
    good = torch.ones_like(image, dtype=torch.bool)
    good[:, :20] = False
    spoiled = torch.where(good, image, 1e6)
    sigma = stamp_noise(spoiled, good=good)
    assert float(sigma.mean()) == pytest.approx(1, abs=0.01)
    pairs = stamp_noise(spoiled.reshape(100, 2, SIDE, SIDE), good=good.reshape(100, 2, SIDE, SIDE))
    torch.testing.assert_close(pairs.flatten(), sigma)
