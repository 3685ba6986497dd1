"""Wavelet bands of stamps: adjoint, exact norms and noise, the filters of the literature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import pywt
import torch

from psfscale.errors import ConfigError
from psfscale.kernels.convolution import Convolution
from psfscale.kernels.frames.filter_bank import Bands

WAVELETS = ["linear", "starlet", "biorthogonal"]
SHAPES = [(16, 16), (13, 9), (8, 21), (5, 3)]


def stack(*shape, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("wavelet", WAVELETS)
@pytest.mark.parametrize("shape", SHAPES)
def test_bands__adjoint_is_exact(wavelet, shape):
    bands = Bands(shape=shape, wavelet=wavelet, n_scales=3)
    x, y = stack(4, *shape), stack(4, len(bands), *shape, seed=2)
    left, right = (bands.forward(x) * y).sum(), (x * bands.adjoint(y)).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-10)


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_bands__norm_is_the_largest_singular_value(wavelet):
    bands = Bands(shape=(8, 7), wavelet=wavelet, n_scales=2)
    matrix = bands.forward(torch.eye(56, dtype=torch.float64).reshape(56, 8, 7)).reshape(56, -1)
    assert bands.norm() == pytest.approx(float(torch.linalg.matrix_norm(matrix, ord=2)), rel=1e-12)


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_bands__of_a_flat_stamp_are_dark(wavelet):
    bands = Bands(shape=(9, 12), wavelet=wavelet, n_scales=3)
    assert float(bands.forward(torch.ones(9, 12, dtype=torch.float64)).abs().max()) < 1e-11


@pytest.mark.parametrize(("wavelet", "taps"), [("linear", [1, 2, 1]), ("starlet", [1, 4, 6, 4, 1])])
def test_bands__of_a_point_are_differences_of_splines(wavelet, taps):
    point = torch.zeros(41, 41, dtype=torch.float64)
    point[20, 20] = 1
    first, second = Bands(shape=(41, 41), wavelet=wavelet, n_scales=2).forward(point)
    once = np.array(taps) / sum(taps)
    holes = np.zeros(2 * len(taps) - 1)
    holes[::2] = once
    fine, coarse = np.zeros((41, 41)), np.zeros((41, 41))
    h, twice = len(taps) // 2, np.convolve(once, holes)
    k = len(twice) // 2
    fine[20 - h : 21 + h, 20 - h : 21 + h] = np.outer(once, once)
    coarse[20 - k : 21 + k, 20 - k : 21 + k] = np.outer(twice, twice)
    np.testing.assert_allclose(first, point.numpy() - fine, atol=1e-15)
    np.testing.assert_allclose(second, fine - coarse, atol=1e-15)


def test_bands__biorthogonal_are_those_of_pywavelets():
    x = stack(16, 16)
    (_, (horizontal, vertical, diagonal)), *_ = pywt.swt2(x.numpy(), "bior4.4", 1)
    mine = Bands(shape=(16, 16), wavelet="biorthogonal", n_scales=1).forward(x)
    # the same bands up to where the first sample stands, and their scale √2 per axis
    for band, peer in zip(mine, (vertical, horizontal, diagonal), strict=True):
        np.testing.assert_allclose(
            np.sort(2 * band.numpy().ravel()), np.sort(peer.ravel()), atol=1e-12
        )


@pytest.mark.parametrize("wavelet", WAVELETS)
@pytest.mark.parametrize("shape", SHAPES)
def test_bands__noise_is_that_of_filtered_white_noise(wavelet, shape):
    psf = stack(5, 5).abs()
    blur = Convolution(psf=psf / psf.sum(), shape=shape)
    bands = Bands(shape=shape, wavelet=wavelet, n_scales=2)
    # by linearity: the response to each pixel's noise, squared and summed
    n = math.prod(shape)
    basis = torch.eye(n, dtype=torch.float64).reshape(n, *shape)
    response = bands.forward(blur.adjoint(basis))[..., 3, 2]
    torch.testing.assert_close(bands.noise(blur.power), response.square().sum(0).sqrt())


@pytest.mark.parametrize("options", [{"wavelet": "haar"}, {"n_scales": 0}])
def test_bands__refuse_what_they_do_not_know(options):
    with pytest.raises(ConfigError, match="bands are of one of"):
        Bands(shape=(8, 8), **options)
