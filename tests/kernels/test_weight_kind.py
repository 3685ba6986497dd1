"""Weights that say one thing and are another, told by the scatter of the sky."""

import numpy as np
import pytest

from psfscale.kernels.weight_kind import KINDS, other_kind

CELLS, PIXELS = 64, 1024


def noise(sigma, seed, *, objects=0.0, correlated=False):
    """Sky of rms `sigma`, a share of its pixels covered by objects."""
    rng = np.random.default_rng(seed)
    sky = rng.normal(3 * sigma, sigma, (CELLS, PIXELS + 1))
    if correlated:  # as a resampled image: each pixel the mean of two
        sky = (sky + np.roll(sky, 1, axis=1)) / 2
    covered = rng.random(sky.shape) < objects
    return (sky + covered * rng.exponential(50 * sigma, sky.shape))[:, :PIXELS]


def numbers(sigma, kind):
    value = {"inverse_variance": sigma**-2, "variance": sigma**2, "rms": sigma}[kind]
    return np.full((CELLS, PIXELS), value)


@pytest.mark.parametrize("kind", KINDS)
def test_other_kind__is_silent_about_weights_that_are_what_they_are_said_to_be(kind):
    # 66 skies a kind, of rms from 0.01 to 1000, seeds 0 to 65, a fifth of the pixels covered.
    found = [
        other_kind(noise(sigma, seed, objects=0.2), numbers(sigma, kind), stated=kind)
        for seed, sigma in enumerate(np.geomspace(0.01, 1000, 66))
    ]
    assert found == [None] * 66


@pytest.mark.parametrize("sigma", [0.02, 0.1, 5.0, 30.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stated", KINDS)
def test_other_kind__names_what_weights_seem_to_be(kind, stated, sigma):
    found = other_kind(noise(sigma, 7, objects=0.1), numbers(sigma, kind), stated=stated)
    assert (found.kind if found else stated) == kind
    if found:
        assert found.scatter == pytest.approx(sigma, rel=0.2)


def test_other_kind__is_silent_where_nothing_explains_the_weights():
    assert other_kind(noise(5.0, 1), numbers(50.0, "rms"), stated="rms") is None
    found = other_kind(noise(5.0, 1, correlated=True), numbers(5.0, "rms"), stated="rms")
    assert found is None


def test_other_kind__is_silent_without_usable_pixels():
    empty = np.zeros((CELLS, PIXELS))
    assert other_kind(noise(5.0, 1), empty, stated="variance") is None
    assert other_kind(np.full_like(empty, np.nan), empty + 1, stated="variance") is None
