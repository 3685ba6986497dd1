"""The data term: its gradient is its cost's, PSFs are refined towards the true ones."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from deconvolution_scene import scene

from psfscale.deconvolve.problem import DataTerm, NoData, moment_windows
from psfscale.deconvolve.refine import RefinedPsf
from psfscale.kernels.convolution import Convolution


def parts(*, weighted, boundary="circular", fixed=False):
    field = scene(4, fixed=fixed)
    image = torch.from_numpy(field.images / field.sigma)
    psf = torch.from_numpy(field.psfs)
    blur = Convolution(psf=psf[None] if fixed else psf, shape=(21, 21), boundary=boundary)
    rng = np.random.default_rng(1)
    weight = torch.from_numpy(
        rng.uniform(0, 1, image.shape) * (rng.uniform(size=image.shape) > 0.1)
    )
    return image, weight if weighted else None, blur, torch.from_numpy(rng.normal(size=image.shape))


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("boundary", ["circular", "zero"])
@pytest.mark.parametrize("lambda_shape", [0.0, 3.0])
def test_data_term__gradient_is_that_of_its_cost(weighted, boundary, lambda_shape):
    image, weight, blur, x = parts(weighted=weighted, boundary=boundary)
    term = DataTerm(image, weight=weight, blur=blur, lambda_shape=lambda_shape)
    direction = torch.from_numpy(np.random.default_rng(2).normal(size=x.shape))
    rise = term.cost(x + 1e-4 * direction) - term.cost(x - 1e-4 * direction)
    slope = float((term.gradient(x) * direction).sum())
    assert rise / 2e-4 == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("lambda_shape", [0.0, 3.0])
def test_data_term__lipschitz_bounds_the_gradient(lambda_shape):
    image, weight, blur, x = parts(weighted=True)
    term = DataTerm(image, weight=weight, blur=blur, lambda_shape=lambda_shape)
    step = term.gradient(x) - term.gradient(torch.zeros_like(x))
    assert float(step.norm()) <= term.lipschitz * float(x.norm())


def test_no_data__neither_pulls_nor_costs():
    image, _, blur, x = parts(weighted=False)
    term = NoData(image, weight=None, blur=blur)
    assert (float(term.gradient(x).abs().max()), term.cost(x)) == (0, 0)


def test_moment_windows__are_orthonormal_and_hold_the_moments():
    windows = moment_windows((21, 17)).flatten(1)
    torch.testing.assert_close(
        windows @ windows.T, torch.eye(18, dtype=torch.float64), atol=1e-12, rtol=0
    )
    y, x = np.mgrid[:21, :17] - np.array([10, 8])[:, None, None]
    window = np.exp(-(x**2 + y**2) / 2 / (17 / 8) ** 2)
    for moment in (1, x, y, x**2 + y**2, x**2 - y**2, x * y):
        image = torch.from_numpy(np.asarray(moment * window).ravel())
        torch.testing.assert_close(windows.T @ (windows @ image), image, atol=1e-10, rtol=0)


@pytest.mark.parametrize("fixed", [True, False])
def test_refined_psf__finds_the_true_psf_of_known_galaxies(fixed):
    field = scene(6, fixed=fixed, snr=1e9)
    true = torch.from_numpy(np.atleast_3d(field.psfs).reshape(-1, 21, 21))
    start = (true + true.transpose(1, 2).roll(1, 2)) / 2
    term = RefinedPsf(
        torch.from_numpy(field.images / field.sigma),
        weight=None,
        blur=Convolution(psf=start, shape=(21, 21)),
        scale=torch.full((6,), field.sigma, dtype=torch.float64),
        lambda_psf=0.0,
        beta_psf=1e9,
        literal=False,
    )
    x = torch.from_numpy(field.truth / field.sigma)
    costs = []
    for _ in range(200):
        term.gradient(x)
        costs.append(term.cost(x))
    assert all(a >= b * (1 - 1e-9) for a, b in pairwise(costs))
    assert float((term.blur.psf - true).norm()) < 0.5 * float((start - true).norm())
    assert bool((term.blur.psf >= 0).all())
    torch.testing.assert_close(
        term.blur.psf.sum((1, 2)), torch.ones(len(true), dtype=torch.float64)
    )
