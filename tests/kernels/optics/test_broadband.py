"""Optics against the Airy pattern, an FFT, GalSim, energy, and finite differences."""

from __future__ import annotations

from dataclasses import replace

import galsim
import numpy as np
import pytest
import torch
from scipy.special import j1

from psfscale.errors import InputError
from psfscale.kernels.optics.broadband import CACHE_BYTES, BroadbandPsf, working_set
from psfscale.kernels.optics.propagate import MatrixDFT, pupil_field
from psfscale.kernels.optics.zernike import legendre_products, zernikes

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def pupil(n: int, hole: float = 0.3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Amplitude by open area, and the samples' places in radii."""
    fine = (np.arange(8 * n) - (8 * n - 1) / 2) / (4 * n)
    r = np.hypot(*np.meshgrid(fine - 0.1, fine))
    rim = np.hypot(*np.meshgrid(fine, fine))
    open_ = ((rim <= 1) & (r >= hole)).reshape(n, 8, n, 8).mean((1, 3))
    u = (np.arange(n) - (n - 1) / 2) * 2 / n
    return open_, *np.meshgrid(u, u)


def optics(amplitude: np.ndarray, *, n: int = 32, normalised: str = "stamp") -> BroadbandPsf:
    """λ/D is 3 to 4 samples; pixels are 2 x 2 samples."""
    response = np.kron(np.eye(n // 2), np.ones(2))
    return BroadbandPsf(
        amplitude=torch.from_numpy(amplitude),
        wavelengths=(0.6, 0.8),
        path_step=0.2 / len(amplitude),
        response=torch.from_numpy(response),
        axis=n / 2,
        normalised=normalised,
    )


def scene(n_pupil: int = 24, n_stars: int = 3) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    amplitude, x, y = pupil(n_pupil)
    rng = np.random.default_rng(5)
    coefficients = 0.04 * rng.normal(size=(n_stars, 15))
    opd = np.einsum("sj,jyx->syx", coefficients, zernikes(15, x, y))
    weights = rng.dirichlet([2, 2], n_stars)
    return amplitude, torch.from_numpy(opd), torch.from_numpy(weights)


def test_matrix_dft__is_the_fourier_transform() -> None:
    rng = np.random.default_rng(0)
    g = rng.normal(size=(2, 8, 8))
    like = torch.zeros(0, dtype=torch.float64)
    dft = MatrixDFT.of(8, 12, path_step=0.07, wavelength=0.7, like=like)
    found = dft.forward(torch.from_numpy(g)).numpy()
    p, u = np.arange(8) - 3.5, np.arange(12) - 5.5
    matrix = np.exp(-2j * np.pi * 0.1 * np.outer(u, p))
    expected = matrix @ (g[0] + 1j * g[1]) @ matrix.T
    np.testing.assert_allclose(found[0] + 1j * found[1], expected, atol=1e-12)


def test_matrix_dft__has_its_adjoint() -> None:
    rng = np.random.default_rng(0)
    like = torch.zeros(0, dtype=torch.float64)
    dft = MatrixDFT.of(10, 14, path_step=0.07, wavelength=0.6, like=like)
    g = torch.from_numpy(rng.normal(size=(2, 3, 10, 10)))
    e = torch.from_numpy(rng.normal(size=(2, 3, 14, 14)))
    torch.testing.assert_close(
        (dft.forward(g) * e).sum(), (g * dft.adjoint(e)).sum(), rtol=1e-12, atol=0
    )


def test_matrix_dft__refuses_odd_sides() -> None:
    with pytest.raises(InputError, match="even sides, got 9 and 12"):
        MatrixDFT.of(9, 12, path_step=0.1, wavelength=1.0, like=torch.zeros(0))


def test_clear_aperture__gives_the_airy_pattern() -> None:
    amplitude, _, _ = pupil(256, hole=0)
    s, wavelength = 0.2 / 256, 0.7
    a = torch.from_numpy(amplitude)
    dft = MatrixDFT.of(256, 40, path_step=s, wavelength=wavelength, like=a)
    e = dft.forward(pupil_field(a, torch.zeros_like(a), wavelength=wavelength))
    found = (e[0] ** 2 + e[1] ** 2).numpy()
    u = np.arange(40) - 19.5
    argument = np.pi * np.hypot(*np.meshgrid(u, u)) * s * 256 / wavelength
    airy = (2 * j1(argument) / argument) ** 2 * (np.pi / 4 * 256**2) ** 2
    np.testing.assert_allclose(found, airy, atol=2e-4 * airy.max())


def test_aberrated_psf__is_that_of_galsim() -> None:
    n, wavelength, step = 256, 0.7, 0.05
    amplitude, x, y = pupil(n, hole=0)
    rng = np.random.default_rng(3)
    c = np.concatenate([np.zeros(3), 0.03 * rng.normal(size=12)])
    opd = torch.from_numpy(np.einsum("j,jyx->yx", c, zernikes(15, x, y)))[None]
    psf = BroadbandPsf(
        amplitude=torch.from_numpy(amplitude),
        wavelengths=(wavelength,),
        path_step=1.2e6 / n * step * np.pi / 180 / 3600,
        response=torch.eye(64, dtype=torch.float64),
        axis=32.0,
        normalised="energy",
    )
    found = psf.draw(opd, torch.ones(1, 1, dtype=torch.float64))[0].numpy()
    exact = galsim.OpticalPSF(
        lam=wavelength * 1e3,
        diam=1.2,
        aberrations=np.concatenate([[0], c / wavelength]),
        oversampling=2,
        pad_factor=4,
    ).drawImage(nx=64, ny=64, scale=step, method="no_pixel", offset=(0.5, 0.5))
    # GalSim turns the image by 180 degrees against the pupil.
    error = np.linalg.norm(found - np.roll(exact.array[::-1, ::-1], (1, 1), (0, 1)))
    assert error < 0.005 * np.linalg.norm(found)


def test_energy__is_kept_in_a_wide_stamp() -> None:
    amplitude, opd, weights = scene()
    total = optics(amplitude, n=72, normalised="energy").draw(opd, weights).sum((1, 2))
    assert (total < 1).all()
    assert (total > 0.97).all()


def test_stamp_normalisation__gives_unit_sums() -> None:
    amplitude, opd, weights = scene()
    total = optics(amplitude).draw(opd, weights).sum((1, 2))
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("normalised", ["stamp", "energy"])
def test_derivatives__agree_with_finite_differences_and_each_other(normalised: str) -> None:
    amplitude, opd, weights = scene()
    model = optics(amplitude, normalised=normalised)
    rng = np.random.default_rng(6)
    change = torch.from_numpy(0.02 * rng.normal(size=opd.shape))
    slope = torch.from_numpy(rng.normal(size=(3, 16, 16)))
    step = 1e-4
    there, back = (model.draw(opd + s * step * change, weights) for s in (1, -1))
    pushed = model.push(opd, weights, change)
    torch.testing.assert_close(pushed, (there - back) / (2 * step), rtol=1e-6, atol=1e-10)
    pulled = model.pullback(opd, weights, slope)
    torch.testing.assert_close((pulled * change).sum(), (slope * pushed).sum(), rtol=1e-10, atol=0)


def test_psf__is_differentiable() -> None:
    amplitude, opd, weights = scene(n_pupil=8, n_stars=1)
    model = optics(amplitude, n=8)
    assert torch.autograd.gradcheck(lambda w: model(w, weights), opd.requires_grad_())


@pytest.mark.parametrize("normalised", ["stamp", "energy"])
def test_jacobian__holds_the_derivative_along_every_mode(normalised: str) -> None:
    amplitude, opd, weights = scene()
    model = optics(amplitude, normalised=normalised)
    _, x, y = pupil(24)
    degrees, turn = legendre_products(15)
    legendre = np.polynomial.legendre.legvander(x[0], 4).T
    stamp, slopes = model.jacobian(
        opd, weights, products=degrees, polynomials=torch.from_numpy(legendre)
    )
    torch.testing.assert_close(stamp, model.draw(opd, weights))
    modes = torch.from_numpy(zernikes(15, x, y))
    for j in (1, 4, 11, 14):
        expected = model.push(opd, weights, modes[j].expand_as(opd))
        found = torch.einsum("p,psyx->syx", torch.from_numpy(turn[j]), slopes)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_batches__follow_the_free_memory_of_an_accelerator(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (40e9, 80e9))
    wide = working_set(torch.device("cuda:1"))
    assert wide == pytest.approx(4e9)
    assert working_set(torch.device("cpu")) == CACHE_BYTES
    model = replace(optics(pupil(24)[0]), batch_bytes=wide)
    assert model.batches(10_000) == [slice(0, 10_000)]
    few = replace(model, batch_bytes=4 * 32**2 * 8 * 3.5)
    assert few.batches(8) == [slice(0, 3), slice(3, 6), slice(6, 8)]
    assert few.batches(2, copies=9) == [slice(0, 1), slice(1, 2)]


def test_kernel__is_a_blur_that_is_its_own_adjoint() -> None:
    """Derivatives under a kernel agree, and a round one does what the detector's filter does."""
    amplitude, opd, weights = scene()
    f = np.fft.fftfreq(32)
    xx, xy, yy = 0.8, 0.5, 0.6
    across = xx * np.fft.rfftfreq(32) ** 2 + yy * f[:, None] ** 2
    across = across + 2 * xy * f[:, None] * np.fft.rfftfreq(32)
    kernel = torch.from_numpy(np.exp(-2 * np.pi**2 * across))
    model = replace(optics(amplitude, normalised="energy"), kernel=kernel)
    rng = np.random.default_rng(6)
    change = torch.from_numpy(0.02 * rng.normal(size=opd.shape))
    slope = torch.from_numpy(rng.normal(size=(3, 16, 16)))
    pushed = model.push(opd, weights, change)
    there, back = (model.draw(opd + s * 1e-4 * change, weights) for s in (1, -1))
    torch.testing.assert_close(pushed, (there - back) / 2e-4, rtol=1e-6, atol=1e-10)
    pulled = model.pullback(opd, weights, slope)
    torch.testing.assert_close((pulled * change).sum(), (slope * pushed).sum(), rtol=1e-10, atol=0)
    sharp = replace(model, kernel=None).draw(opd, weights)
    blurred = model.draw(opd, weights)
    assert blurred.amax() < 0.9 * sharp.amax()
    # The kernel keeps the light: what leaves the samples on one side comes in on the other.
    torch.testing.assert_close(blurred.sum((1, 2)), sharp.sum((1, 2)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_stamps__do_not_depend_on_batch_order_or_device(device: str) -> None:
    amplitude, opd, weights = scene(n_stars=5)
    model = optics(amplitude)
    whole = model.draw(opd, weights)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(model.draw(opd[order], weights[order]), whole[order])
    torch.testing.assert_close(model.draw(opd[2:3], weights[2:3])[0], whole[2])
    there = BroadbandPsf(
        amplitude=model.amplitude.to(device),
        wavelengths=model.wavelengths,
        path_step=model.path_step,
        response=model.response.to(device),
        axis=model.axis,
    )
    torch.testing.assert_close(there.draw(opd.to(device), weights.to(device)).cpu(), whole)
