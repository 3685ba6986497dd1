"""Convolution: adjoint, agreement with SciPy and Astropy, exact norms, both transforms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from astropy.convolution import convolve_fft
from scipy.signal import fftconvolve

from psfscale.errors import ConfigError
from psfscale.kernels import blocks
from psfscale.kernels.convolution import Convolution, real_fourier_basis

SHAPES = [(8, 8), (11, 7), (6, 13), (21, 16)]
BOUNDARIES = ["circular", "zero"]


def stack(shape, n=5, seed=3):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, *shape)))


def psfs(shape, n=5, seed=4):
    positive = np.random.default_rng(seed).uniform(size=(n, *shape)) ** 4
    return torch.from_numpy(positive / positive.sum((1, 2), keepdims=True))


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kernel", [(5, 5), (4, 9), (11, 12)])
def test_convolution__adjoint_is_exact(boundary, shape, kernel):
    blur = Convolution(psf=psfs(kernel), shape=shape, boundary=boundary)
    x, y = stack(shape), stack(shape, seed=9)
    left, right = (blur.forward(x) * y).sum(), (x * blur.adjoint(y)).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-10)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_convolution__normal_is_adjoint_of_forward(boundary, shape):
    blur = Convolution(psf=psfs((5, 7)), shape=shape, boundary=boundary)
    x = stack(shape)
    weight = stack(shape, seed=6) ** 2
    torch.testing.assert_close(blur.normal(x), blur.adjoint(blur.forward(x)), atol=1e-13, rtol=0)
    weighted = blur.adjoint(weight * blur.forward(x))
    torch.testing.assert_close(blur.normal(x, weight), weighted, atol=1e-13, rtol=0)


def test_convolution__circular_is_that_of_astropy():
    x, k = stack((11, 9)), psfs((5, 7))
    mine = Convolution(psf=k, shape=(11, 9)).forward(x)
    for one, image, kernel in zip(mine, x, k, strict=True):
        peer = convolve_fft(image.numpy(), kernel.numpy(), boundary="wrap", normalize_kernel=False)
        np.testing.assert_allclose(one.numpy(), peer, atol=1e-13)


@pytest.mark.parametrize("kernel", [(5, 7), (11, 9)])
def test_convolution__zero_is_that_of_scipy(kernel):
    x, k = stack((11, 9)), psfs(kernel)
    mine = Convolution(psf=k, shape=(11, 9), boundary="zero").forward(x)
    for one, image, psf in zip(mine, x, k, strict=True):
        peer = fftconvolve(image.numpy(), psf.numpy(), mode="same")
        np.testing.assert_allclose(one.numpy(), peer, atol=1e-13)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_convolution__one_psf_serves_all(boundary):
    x, k = stack((11, 8)), psfs((5, 5), n=1)
    one = Convolution(psf=k, shape=(11, 8), boundary=boundary)
    bare = Convolution(psf=k[0], shape=(11, 8), boundary=boundary)
    each = Convolution(psf=k.expand(5, 5, 5), shape=(11, 8), boundary=boundary)
    for apply in ("forward", "adjoint", "normal"):
        wanted = getattr(each, apply)(x)
        torch.testing.assert_close(getattr(one, apply)(x), wanted, atol=1e-14, rtol=0)
        torch.testing.assert_close(getattr(bare, apply)(x), wanted, atol=1e-14, rtol=0)


def test_convolution__blocks_and_leading_axes_change_nothing(monkeypatch):
    x, k = stack((11, 11)), psfs((5, 5))
    blur = Convolution(psf=k, shape=(11, 11))
    whole = blur.normal(x), blur.forward(x)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2 * 11 * 11 * 8)
    torch.testing.assert_close(blur.normal(x), whole[0], atol=1e-14, rtol=0)
    torch.testing.assert_close(blur.forward(x), whole[1], atol=1e-14, rtol=0)
    pair = torch.stack([x, 2 * x])
    torch.testing.assert_close(blur.normal(pair)[1], 2 * whole[0], atol=1e-14, rtol=0)


def test_convolution__delta_leaves_all_as_it_is():
    x = stack((9, 10))
    delta = torch.zeros(5, 5, dtype=torch.float64)
    delta[2, 2] = 1
    for boundary in BOUNDARIES:
        blur = Convolution(psf=delta, shape=(9, 10), boundary=boundary)
        torch.testing.assert_close(blur.forward(x), x, atol=1e-14, rtol=0)
        assert blur.norm() == pytest.approx(1)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_convolution__norm_bounds_and_is_exact_where_circular(boundary):
    kernel = stack((5, 5), n=1, seed=2)
    blur = Convolution(psf=kernel, shape=(7, 8), boundary=boundary)
    basis = torch.eye(56, dtype=torch.float64).reshape(56, 7, 8)
    largest = float(torch.linalg.matrix_norm(blur.forward(basis).reshape(56, 56), ord=2))
    if boundary == "circular":
        assert blur.norm() == pytest.approx(largest, rel=1e-12)
    else:
        assert largest <= blur.norm() <= 1.3 * largest


@pytest.mark.parametrize("n", [1, 2, 7, 8, 41])
def test_real_fourier_basis__is_orthogonal(n):
    basis = real_fourier_basis(n)
    torch.testing.assert_close(
        basis @ basis.T, torch.eye(n, dtype=torch.float64), atol=1e-13, rtol=0
    )


def test_convolution__keeps_float32():
    x, k = stack((11, 11)).float(), psfs((5, 5)).float()
    blur = Convolution(psf=k, shape=(11, 11))
    for image in (blur.forward(x), blur.adjoint(x), blur.normal(x)):
        assert image.dtype == torch.float32
    exact = Convolution(psf=k.double(), shape=(11, 11)).normal(x.double())
    torch.testing.assert_close(blur.normal(x).double(), exact, atol=2e-6, rtol=0)


def test_convolution__refuses_an_unknown_boundary():
    with pytest.raises(ConfigError, match="boundary is one of"):
        Convolution(psf=psfs((5, 5)), shape=(9, 9), boundary="mirror")


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("kernel", [(5, 4), (11, 12)])
@pytest.mark.parametrize("shared", [True, False])
def test_convolution__as_a_map_of_the_psf_has_an_exact_adjoint(boundary, kernel, shared):
    k = psfs(kernel, n=1 if shared else 5)
    blur = Convolution(psf=k, shape=(11, 8), boundary=boundary)
    x, y = stack((11, 8)), stack((11, 8), seed=5)
    left, right = (blur.forward(x) * y).sum(), (k * blur.kernel_adjoint(x, y)).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-10)
    gain = blur.kernel_adjoint(x, blur.forward(x)).flatten(1).norm(dim=1)
    assert (gain <= blur.kernel_gain(x).flatten() * k.flatten(1).norm(dim=1) * (1 + 1e-12)).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_convolution__response_is_the_norm_of_the_blurred_images(shape):
    blur = Convolution(psf=psfs((5, 5), n=2), shape=shape)
    images = stack(shape, n=3)
    for psf, row in zip(blur.psf, blur.response(images), strict=True):
        blurred = Convolution(psf=psf, shape=shape).forward(images)
        torch.testing.assert_close(row, blurred.flatten(1).norm(dim=1))


@pytest.mark.parametrize("shape", [*SHAPES, (41, 41)])
@pytest.mark.parametrize("shared", [True, False])
def test_resolvent__solves_the_damped_normal_equations(shape, shared):
    blur = Convolution(psf=psfs((5, 5), n=1 if shared else 5), shape=shape)
    damping = torch.linspace(0.1, 0.5, len(blur.psf), dtype=torch.float64)
    x = stack(shape)
    solve = blur.resolvent(damping)
    torch.testing.assert_close(solve(blur.normal(x) + damping[:, None, None] * x), x)
    torch.testing.assert_close(solve.select(slice(1, 3))(x[1:3]), solve(x)[1:3])
