"""Solutions are minima: by a generic solver, and by their own certificates."""

from __future__ import annotations

import cvxpy
import numpy as np
import pytest
import torch
from deconvolution_scene import gaussians, scene
from scipy.optimize import lsq_linear

from psfscale.deconvolve.convergence import CostWindow, RemainingDistance
from psfscale.deconvolve.restore import deconvolve
from psfscale.kernels.convolution import Convolution
from psfscale.kernels.frames.filter_bank import Bands
from psfscale.kernels.optimize.lowrank import nuclear_norm


@pytest.mark.parametrize("optimiser", ["condat", "fwbw", "gfwbw"])
def test_sparse_solution__is_that_of_a_generic_convex_solver(optimiser):
    """The dual is least squares in a box, which SciPy solves without any splitting."""
    side, sigma = 7, 0.002
    rng = np.random.default_rng(4)
    truth = gaussians(rng, 1, width=(1.0, 1.2), ellipticity=0.2, side=side)
    psf = gaussians(rng, 1, width=(0.6, 0.7), ellipticity=0.0, side=side)
    blur = Convolution(psf=torch.from_numpy(psf), shape=(side, side))
    images = blur.forward(torch.from_numpy(truth)).numpy()
    images = images + sigma * rng.normal(size=images.shape)
    found = deconvolve(
        images, psf[0], mode="sparse", opt_type=optimiser, sigma=sigma, n_reweights=0,
        n_iter=4000, convergence=1e-12, wave_thresh_factor=(3.0, 2.0),
    )  # fmt: skip

    n = side**2
    basis = torch.eye(n, dtype=torch.float64).reshape(n, side, side)
    bands = Bands(shape=(side, side), n_scales=2)
    h = blur.forward(basis).reshape(n, n).T.numpy()
    phi = bands.forward(basis).reshape(n, -1).T.numpy()
    noise = bands.noise(blur.power)[0].numpy() * [3.0, 2.0]
    limit = np.repeat(noise, n)
    root = np.linalg.cholesky(h.T @ h)
    right = np.linalg.solve(root, h.T @ images.ravel() / sigma)
    system = np.linalg.solve(root, np.hstack([phi.T, -np.eye(n)]))
    bounds = np.concatenate([-limit, np.zeros(n)]), np.concatenate([limit, np.full(n, np.inf)])
    dual = lsq_linear(system, right, bounds, method="bvls", tol=1e-14).x
    x = np.linalg.solve(root.T, right - system @ dual) * sigma
    np.testing.assert_allclose(found.image[0].ravel(), x, atol=2e-4 * x.max())


@pytest.mark.parametrize("mode", ["lowr", "all"])
def test_soft_low_rank_solution__is_that_of_a_generic_convex_solver(mode):
    side, n, sigma = 6, 4, 0.004
    rng = np.random.default_rng(8)
    truth = gaussians(rng, n, width=(1.0, 1.3), ellipticity=0.3, side=side)
    psf = gaussians(rng, n, width=(0.5, 0.6), ellipticity=0.0, side=side)
    blur = Convolution(psf=torch.from_numpy(psf), shape=(side, side))
    images = blur.forward(torch.from_numpy(truth)).numpy()
    images = images + sigma * rng.normal(size=images.shape)
    found = deconvolve(
        images, psf, mode=mode, lowr_thresh_type="soft", lowr_thresh_factor=0.5, sigma=sigma,
        n_reweights=0, n_iter=6000, convergence=1e-14, wave_thresh_factor=(2.0, 1.0),
    )  # fmt: skip

    pixels = side**2
    basis = torch.eye(pixels, dtype=torch.float64).reshape(pixels, 1, side, side)
    h = blur.forward(basis.expand(-1, n, -1, -1)).reshape(pixels, n, pixels).numpy()
    bands = Bands(shape=(side, side), n_scales=2)
    phi = bands.forward(basis[:, 0]).reshape(pixels, -1).T.numpy()
    limit = np.repeat(bands.noise(blur.power).numpy() * [2.0, 1.0], pixels, axis=1)
    x = cvxpy.Variable((n, pixels), nonneg=True)
    # λ = factor·√max(n + 1, pixels)
    cost = 0.5 * 6 * cvxpy.normNuc(x)
    for i, image in enumerate(images / sigma):
        cost += 0.5 * cvxpy.sum_squares(h[:, i].T @ x[i] - image.ravel())
        if mode == "all":
            cost += limit[i] @ cvxpy.abs(phi @ x[i])
    cvxpy.Problem(cvxpy.Minimize(cost)).solve(solver=cvxpy.SCS, eps_abs=1e-7, eps_rel=1e-7)
    answer = x.value.reshape(images.shape) * sigma
    np.testing.assert_allclose(found.image, answer, atol=2e-3 * answer.max())


def test_soft_low_rank_solution__carries_the_certificate_of_a_minimum():
    field = scene(12, snr=10, psf_width=(0.8, 1.0))
    factor = 0.3
    found = deconvolve(
        field.images, field.psfs, mode="lowr", lowr_thresh_type="soft", lowr_thresh_factor=factor,
        sigma=field.sigma, n_iter=6000, convergence=1e-12,
    )  # fmt: skip
    x = torch.from_numpy(found.image / field.sigma).flatten(1)
    u = torch.from_numpy(found.dual[0] / field.sigma).flatten(1)
    threshold = factor * 21  # √max(13, 441)
    # u is a subgradient of λ‖·‖_* at x ...
    assert float(torch.linalg.matrix_norm(u, ord=2)) <= threshold * (1 + 1e-9)
    assert float((u * x).sum()) == pytest.approx(threshold * nuclear_norm(x), rel=1e-4)
    # ... and what pulls at x is balanced where x > 0, and outwards where x = 0
    blur = Convolution(psf=torch.from_numpy(field.psfs), shape=(21, 21))
    image = torch.from_numpy(field.images / field.sigma)
    pull = blur.adjoint(blur.forward(x.reshape(image.shape)) - image).flatten(1) + u
    inside = x > 0.05 * x.max()
    assert float(pull[inside].abs().max()) < 0.01
    assert float(pull.min()) > -0.05


def test_remaining_distance__sees_through_slow_convergence():
    x = torch.ones(2, 4, 4, dtype=torch.float64)
    rate = torch.tensor([0.5, 0.99])[:, None, None]
    stop = RemainingDistance(1e-6)
    for k in range(60):
        step = 1e-3 * rate**k * x
        ended = stop(x, step.flatten(1).norm(dim=1))
    # to go: step · q/(1 − q), 0 and 0.99^60 · 1e-3 · 99 = 0.054 of |x|
    assert not ended
    assert stop.converged(2).tolist() == [True, False]
    assert stop.residual == pytest.approx((1e-3 * 0.99**59 * 99) ** 2, rel=0.01)


def test_remaining_distance__ends_where_nothing_moves():
    stop = RemainingDistance(1e-6)
    x = torch.zeros(3, 2, 2)
    assert [stop(x, torch.zeros(3)) for _ in range(7)][-1]
    assert bool(stop.converged(3).all())
    assert not bool(RemainingDistance(1.0).converged(3).any())


def test_cost_window__is_the_published_test():
    costs = iter([8.0, 4.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    stop = CostWindow(lambda _: next(costs), tolerance=0.1, interval=1)
    zero = torch.zeros(1)
    verdicts = [stop(zero, zero) for _ in range(8)]
    assert verdicts == [False] * 7 + [True]
    assert stop.costs == [8.0, 4.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]
