"""Clumps: moments of their score and their posterior mean against dense matrices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from learnt_galaxies import gaussian_psf

from psfscale.deconvolve.learnt import clumps
from psfscale.deconvolve.learnt.clumps import ClumpField
from psfscale.deconvolve.learnt.fourier import Canvas

SIDE = 9


def small_field(oversampling=1, *, root_weight=None, seed=0):
    canvas = Canvas(
        shape=(SIDE, SIDE),
        psf_shape=(7 * oversampling, 7 * oversampling),
        oversampling=oversampling,
        dtype=torch.float64,
    )
    psf = gaussian_psf(1.1 * oversampling, 7 * oversampling)
    variance = torch.zeros(1, *canvas.padded, dtype=torch.float64)
    side = SIDE * oversampling
    rng = np.random.default_rng(seed)
    light = gaussian_psf(1.5 * oversampling, side) * rng.uniform(0.5, 1.5, (side, side))
    variance[0, :side, :side] = torch.from_numpy(light)
    if root_weight is None:
        root_weight = torch.full((1, SIDE, SIDE), 3.0, dtype=torch.float64)
    return ClumpField(
        canvas=canvas,
        transfer=canvas.transfer(torch.from_numpy(psf)[None]),
        root_weight=root_weight,
        variance=variance,
    )


def dense(field):
    """A as a matrix."""
    n = field.variance[0].numel()
    unit = torch.eye(n, dtype=torch.float64).reshape(n, *field.canvas.padded)
    rows = [
        ClumpField(
            canvas=field.canvas,
            transfer=field.transfer,
            root_weight=field.root_weight,
            variance=field.variance,
        ).forward(u[None])
        for u in unit
    ]
    return torch.cat(rows).reshape(n, -1).T


@pytest.mark.parametrize("oversampling", [1, 2])
def test_traces__are_those_of_the_covariance(oversampling):
    field = small_field(oversampling)
    a = dense(field)
    b = a @ torch.diag(field.variance.flatten()) @ a.T
    assert float(field.trace) == pytest.approx(float(b.trace()), rel=1e-6)
    # The stamp's edge is not seen by the squared trace: a tenth.
    assert float(field.squared_trace) == pytest.approx(float((b @ b).trace()), rel=0.1)


def test_clumpiness__of_noise_is_small_and_of_clumps_is_their_own():
    field = small_field()
    rng = np.random.default_rng(1)
    n, tau2 = 400, 4.0
    strewn = torch.from_numpy(rng.normal(size=(n, *field.canvas.padded)))
    many = ClumpField(
        canvas=field.canvas,
        transfer=field.transfer.expand(n, -1, -1),
        root_weight=field.root_weight.expand(n, -1, -1),
        variance=field.variance.expand(n, -1, -1),
    )
    noise = torch.from_numpy(rng.normal(size=(n, SIDE, SIDE)))
    _, quiet = many.clumpiness(noise)
    seen = many.forward((many.variance * tau2).sqrt() * strewn) + noise
    level, _ = many.clumpiness(seen)
    # n = 400 draws (seed 1): means are known to 5 % and, of the clumps, 10 %.
    assert float(quiet.mean()) == pytest.approx(0, abs=0.2)
    assert float(quiet.std()) == pytest.approx(1, abs=0.2)
    assert float(level.mean()) == pytest.approx(tau2, rel=0.25)


def test_restored__first_pass_is_the_closed_form_posterior_mean(monkeypatch):
    monkeypatch.setattr(clumps, "SHARPENINGS", 0)
    monkeypatch.setattr(clumps, "SOLVER_TOLERANCE", 1e-9)
    weights = torch.from_numpy(np.random.default_rng(2).uniform(1, 4, (1, SIDE, SIDE)))
    weights[0, 2, 3] = 0
    field = small_field(root_weight=weights)
    residual = torch.from_numpy(np.random.default_rng(3).normal(size=(1, SIDE, SIDE)))
    tau2 = torch.tensor([5.0], dtype=torch.float64)
    mean, _ = field.restored(residual, tau2)
    a, v = dense(field), 5.0 * torch.diag(field.variance.flatten())
    b = a @ v @ a.T + torch.eye(SIDE**2, dtype=torch.float64)
    expected = v @ a.T @ torch.linalg.solve(b, residual.flatten())
    torch.testing.assert_close(mean.flatten(), expected, rtol=1e-6, atol=1e-9)


def test_restored__sharpens_a_single_clump():
    field = small_field()
    sky = torch.zeros_like(field.variance)
    sky[0, 5, 3] = 1.0
    residual = 30 * field.forward(sky)
    mean, variance = field.restored(residual, torch.tensor([900.0], dtype=torch.float64))
    assert int(mean.argmax()) == int(sky.argmax())
    assert int(variance.argmax()) == int(sky.argmax())


def test_restored__of_bright_galaxies_is_not_lost_in_rounding():
    field = small_field(2, root_weight=torch.full((1, SIDE, SIDE), 100.0, dtype=torch.float64))
    rng = np.random.default_rng(4)
    strewn = torch.from_numpy(rng.normal(size=(1, *field.canvas.padded)))
    seen = field.forward(field.variance.sqrt() * strewn)
    seen = seen + torch.from_numpy(rng.normal(size=(1, SIDE, SIDE)))
    single = ClumpField(
        canvas=replace(field.canvas, dtype=torch.float32),
        transfer=field.transfer.to(torch.complex64),
        root_weight=field.root_weight.float(),
        variance=field.variance.float(),
    )
    one = torch.ones(1, dtype=torch.float64)
    expected = field.restored(seen, one)[0]
    found = single.restored(seen.float(), one.float())[0]
    assert found.dtype == torch.float32
    # 6e-5 by conjugate gradients in float32
    assert float((found - expected).norm() / expected.norm()) < 1e-6


@pytest.mark.parametrize("oversampling", [1, 2])
def test_uncertainty__is_the_posterior_variance_under_even_light(oversampling):
    field = small_field(oversampling)
    even = torch.full_like(field.variance, 0.2)
    a = dense(field)
    prior = 0.2 * torch.eye(a.shape[1], dtype=torch.float64)
    b = a @ prior @ a.T + torch.eye(SIDE**2, dtype=torch.float64)
    posterior = prior - prior @ a.T @ torch.linalg.solve(b, a @ prior)
    expected = posterior.diagonal().reshape(field.canvas.padded)
    ours = field.uncertainty(even, torch.ones_like(field.canvas.gaussian(1.0)))[0]
    middle = SIDE * oversampling // 2
    assert float(ours[middle, middle]) == pytest.approx(float(expected[middle, middle]), rel=0.1)
