"""Elliptical profiles: known images, derivatives, and fits that find them."""

from __future__ import annotations

import galsim
import numpy as np
import pytest
import torch
from learnt_galaxies import BEAM, SIDE, draw, gaussian_psf

from psfscale.deconvolve.learnt.fit import ProfileFitter
from psfscale.deconvolve.learnt.fourier import Canvas
from psfscale.deconvolve.learnt.observation import Sight
from psfscale.deconvolve.learnt.prior import vague_prior
from psfscale.deconvolve.learnt.profile import WIDTHS, ProfileBasis

CANVAS = Canvas(shape=(SIDE, SIDE), psf_shape=(21, 21), dtype=torch.float64)
FITTER = ProfileFitter(canvas=CANVAS, prior=vague_prior(0.8))
BEAMED = CANVAS.gaussian(BEAM) * CANVAS.to_centre


def parameters(n, *, seed):
    rng = np.random.default_rng(seed)
    size = FITTER.basis.layout.size
    z = torch.from_numpy(rng.normal(0, 0.03, (n, size)))
    z[:, 0] = 3.0
    z[:, -3] = 0.8
    z[:, -2:] = torch.from_numpy(rng.normal(0, 0.3, (n, 2)))
    return z


def sight(image, *, sigma=1e-3, psf=None):
    psf = gaussian_psf() if psf is None else psf
    beam = CANVAS.transfer(torch.from_numpy(psf)[None]) * BEAMED
    return Sight(
        canvas=CANVAS,
        image=image,
        root_weight=torch.full_like(image, 1 / sigma),
        beam=beam.expand(len(image), -1, -1),
    )


def test_spectra__of_one_gaussian_is_the_sheared_gaussian():
    k = 4
    mean = torch.zeros(len(WIDTHS), dtype=torch.float64)
    mean[k] = 1
    basis = ProfileBasis(canvas=CANVAS, mean=mean, modes=mean.new_zeros(len(WIDTHS), 0))
    z = torch.tensor([[np.log(7.0), 0, 0, 0.3, -0.6, 0.9, 0.2, 0.1]], dtype=torch.float64)
    image = CANVAS.image(basis.spectra(z, BEAMED))[0].numpy()
    modulus = np.hypot(0.2, 0.1)
    e = np.tanh(2 * modulus) / modulus * np.array([0.2, 0.1])
    profile = galsim.Gaussian(sigma=WIDTHS[k] * np.exp(0.9), flux=7.0).shear(e1=e[0], e2=e[1])
    expected = draw(galsim.Convolve(profile.shift(-0.6, 0.3), galsim.Gaussian(sigma=BEAM)))
    np.testing.assert_allclose(image, expected, atol=2e-5 * expected.max())


def test_spectra__lets_the_ellipticity_grow_outwards():
    mean, e, c = FITTER.basis.mean, torch.tensor([0.2, 0.1]), torch.tensor([0.02, -0.01])
    none = mean.new_zeros(len(WIDTHS), 0)
    whole = ProfileBasis(canvas=CANVAS, mean=mean, modes=none)
    z = torch.tensor([[0.0, *c, 0.3, -0.6, 0.9, *e]], dtype=torch.float64)
    parts = []
    for k in range(len(WIDTHS)):
        one = ProfileBasis(canvas=CANVAS, mean=torch.eye(len(WIDTHS)).double()[k], modes=none)
        own = z.clone()
        own[0, 1:3] = 0
        own[0, -2:] = e + (k / 3 - 1) * c
        parts.append(mean[k] * one.spectra(own, BEAMED))
    gap = (whole.spectra(z, BEAMED) - sum(parts)).norm() / sum(parts).norm()
    even = z.clone()
    even[0, 1:3] = 0
    change = (whole.spectra(even, BEAMED) - sum(parts)).norm() / sum(parts).norm()
    assert float(gap) < 0.1 * float(change)


def test_columns__are_the_derivatives_of_spectra():
    z, basis, step = parameters(2, seed=3), FITTER.basis, 1e-6
    columns = basis.columns(z, BEAMED)
    for k in range(z.shape[1]):
        ahead, behind = z.clone(), z.clone()
        ahead[:, k] += step
        behind[:, k] -= step
        slope = (basis.spectra(ahead, BEAMED) - basis.spectra(behind, BEAMED)) / (2 * step)
        torch.testing.assert_close(columns[:, k], slope, rtol=1e-5, atol=1e-6)


def test_columns__hold_for_a_round_galaxy():
    z, basis = parameters(1, seed=4), FITTER.basis
    z[:, -2:] = 0
    step = 1e-4
    for k in (-2, -1):
        ahead = z.clone()
        ahead[:, k] += step
        slope = (basis.spectra(ahead, BEAMED) - basis.spectra(z, BEAMED)) / step
        torch.testing.assert_close(basis.columns(z, BEAMED)[:, k], slope, rtol=1e-2, atol=1e-3)


def test_fit__finds_the_profile_that_was_drawn():
    z = parameters(6, seed=5)
    beam = sight(torch.zeros(6, SIDE, SIDE, dtype=torch.float64)).beam
    image = CANVAS.observe(FITTER.basis.spectra(z, beam))
    fit = FITTER.fit(sight(image, sigma=1e-4))
    assert bool(fit.converged.all())
    again = CANVAS.image(FITTER.basis.spectra(fit.z, BEAMED))
    truth = CANVAS.image(FITTER.basis.spectra(z, BEAMED))
    error = ((again - truth) ** 2).sum((1, 2)) / (truth**2).sum((1, 2))
    assert float(error.max()) < 2e-4
    # Ellipticity and its growth outwards trade places along a flat valley.
    torch.testing.assert_close(fit.ellipticity, fitted_distortion(z), rtol=0, atol=6e-3)


def fitted_distortion(z):
    e = z[:, -2:]
    modulus = e.norm(dim=1, keepdim=True)
    return e * torch.tanh(2 * modulus) / modulus


def test_fit__errors_cover_the_scatter_of_flux_and_ellipticity():
    n, sigma = 96, 0.05
    z = parameters(1, seed=6).expand(n, -1).clone()
    clean = CANVAS.observe(FITTER.basis.spectra(z, sight(torch.zeros(n, SIDE, SIDE)).beam))
    noise = np.random.default_rng(7).normal(0, sigma, clean.shape)
    fit = FITTER.fit(sight(clean + torch.from_numpy(noise), sigma=sigma))
    # The scatter of n = 96 draws (seed 7) is known to 7 %; the prior narrows it further.
    flux = float(fit.flux.std() / fit.flux_error.mean())
    assert 0.6 < flux < 1.2
    spread = fit.ellipticity.std(0) / fit.ellipticity_error.mean(0)
    assert bool(((spread > 0.5) & (spread < 1.2)).all())


def test_fit__of_a_batch_is_that_of_its_galaxies():
    z = parameters(4, seed=8)
    image = CANVAS.observe(FITTER.basis.spectra(z, sight(torch.zeros(4, SIDE, SIDE)).beam))
    image = image + torch.from_numpy(np.random.default_rng(9).normal(0, 0.1, image.shape))
    whole = FITTER.fit(sight(image, sigma=0.1))
    alone = torch.cat([FITTER.fit(sight(image[i : i + 1], sigma=0.1)).z for i in range(4)])
    torch.testing.assert_close(whole.z, alone, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("level", [0.0, -5.0])
def test_fit__of_an_empty_or_negative_stamp_stays_finite(level):
    image = torch.full((2, SIDE, SIDE), level, dtype=torch.float64)
    fit = FITTER.fit(sight(image, sigma=1.0))
    assert bool(torch.isfinite(fit.z).all())
    assert float(fit.flux.max()) < 200
