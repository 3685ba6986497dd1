"""Galaxies by their low frequencies: what a band keeps, and what becomes of a fit by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from learnt_galaxies import gaussian_psf, observed, pixel_error, population

from psfscale.deconvolve.learnt.band import HIGHEST, WIDE, Band, BandSight
from psfscale.deconvolve.learnt.fourier import Canvas
from psfscale.deconvolve.learnt.learn import deconvolve, learn_prior
from psfscale.deconvolve.learnt.profile import ProfileBasis
from psfscale.deconvolve.learnt.restore import restore
from psfscale.deconvolve.learnt.settings import LearntSettings
from psfscale.deconvolve.stack import galaxy_stack

FAST = LearntSettings(n_rounds=3, fast=True)
TRUTH = population(40, seed=21)
PSF = gaussian_psf()
STACK = observed(TRUTH, PSF, sigma=1.0, seed=22)
PRIOR = learn_prior([STACK], settings=FAST)
RESTORED = restore(STACK, PRIOR, settings=FAST)


def band(shape=(11, 14), psf_shape=(9, 9), **rest):
    return Band(shape=shape, psf_shape=psf_shape, dtype=torch.float64, **rest)


def test_band__keeps_each_frequency_of_a_disk_once():
    low = band()
    f = torch.cat([low.fy, low.fx])
    assert float(f.norm(dim=0).max()) <= HIGHEST
    both = torch.cat([f, -f[:, 1:]], 1)  # the first is 0, its own opposite
    assert len(torch.unique(both, dim=1)[0]) == both.shape[1]
    ny, nx = low.sides
    grid = torch.fft.fftfreq(ny)[:, None] ** 2 + torch.fft.fftfreq(nx) ** 2
    assert both.shape[1] == int((grid <= HIGHEST**2).sum())


def test_band__of_all_frequencies_has_odd_sides():
    low = band(shape=(20, 24), highest=WIDE)
    assert all(n % 2 for n in low.sides)
    assert low.fy.shape[1] == (low.sides[0] * low.sides[1] + 1) // 2
    assert low.share == pytest.approx(1)


def test_spectra__are_transforms_about_the_centre():
    low = band()
    stamps = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 11, 14)))
    y, x = torch.arange(11) - 5.0, torch.arange(14) - 7.0
    turn = -2j * torch.pi
    rows = torch.exp(turn * low.fy[0][:, None] * y)
    columns = torch.exp(turn * low.fx[0][:, None] * x)
    direct = torch.einsum("fy,nyx,fx->nf", rows, stamps + 0j, columns)
    torch.testing.assert_close(low.spectra(stamps)[:, 0], direct)


def test_share__is_that_of_white_noise():
    low = band(shape=(20, 20))
    noise = torch.from_numpy(np.random.default_rng(2).normal(size=(500, 20, 20)))
    power = torch.view_as_real(low.spectra(noise) * low.scale).square().sum((1, 2, 3))
    # 500 stamps of 0.28 × 400 degrees of freedom: ± 0.6 %.
    assert float(power.mean()) == pytest.approx(low.share * 400, rel=0.02)
    assert low.share == pytest.approx(np.pi * HIGHEST**2, rel=0.1)


@pytest.mark.parametrize("fine", [1, 3])
def test_band_sight__sees_a_galaxy_as_the_stamp_does(fine):
    shape = {"shape": (33, 33), "psf_shape": (21 * fine, 21 * fine), "oversampling": fine}
    canvas, low = Canvas(**shape, dtype=torch.float64), band(**shape)
    psf = torch.from_numpy(gaussian_psf(1.6 * fine, 21 * fine))[None]
    z = torch.zeros(1, len(PRIOR.modes[0]) + 6, dtype=torch.float64)
    z[0, -3:] = torch.tensor([0.6, 0.2, -0.1])
    z[0, -5:-3] = torch.tensor([0.3, -0.4])

    def basis(plane):
        return ProfileBasis(canvas=plane, mean=PRIOR.mean[:-1], modes=PRIOR.modes, twist=False)

    transfer = canvas.transfer(psf) * canvas.to_centre
    stamp = canvas.observe(basis(canvas).spectra(z, transfer))
    stack = galaxy_stack(stamp, psf, sigma=1.0)
    sight = BandSight.of(stack, low, torch.ones_like(low.fy))
    model = sight.seen(basis(low).columns(z, sight.beam)[:, :1])[:, 0]
    gap = (model - sight.data).norm() / sight.data.norm()
    assert float(gap) < 5e-3  # light beyond the stamp


@pytest.mark.parametrize("fine", [1, 3])
def test_image__is_the_sky_of_the_spectra(fine):
    low = band(oversampling=fine)
    stamps = torch.from_numpy(np.random.default_rng(3).normal(size=(2, 11 * fine, 14 * fine)))
    smooth = low.image(low.spectra(stamps, fine=fine))
    assert smooth.shape == stamps.shape
    inner = torch.zeros_like(stamps)
    inner[:, 11 * fine // 2, 14 * fine // 2] = 1.0
    direct = low.image(torch.ones(2, 1, low.fy.shape[1], dtype=torch.complex128))
    torch.testing.assert_close(low.image(low.spectra(inner, fine=fine)), direct)
    # All waves are at their crest there, a fine pixel holds 1 / fine² of a coarse one's flux.
    assert float(direct[0].amax()) == pytest.approx(low.share / fine**2, rel=1e-9)


def test_half_plane__is_the_transform_of_the_plane():
    low = band(oversampling=2)
    stamps = torch.from_numpy(np.random.default_rng(6).normal(size=(2, 22, 28)))
    spectra = low.spectra(stamps, fine=2)
    half = low.half_plane(spectra)
    torch.testing.assert_close(torch.fft.rfft2(low.plane(spectra)), half)
    assert torch.equal(low.of_half_plane(half), spectra)


def test_fast__restores_what_an_elliptical_profile_leaves_over():
    y, x = np.mgrid[:33, :33] - 16
    knots = np.zeros_like(TRUTH[:8])
    for k, (dy, dx) in enumerate([(3, 3), (-4, 1), (2, -4), (-3, -3)] * 2):
        knots[k] = 40 * np.exp(-((y - dy) ** 2 + (x - dx) ** 2) / 2)
    truth = TRUTH[:8] + knots
    stack = observed(truth, PSF, sigma=0.5, seed=5)
    smooth, whole = (
        restore(stack, PRIOR, settings=FAST.model_copy(update={"clumps": clumps}))
        for clumps in (False, True)
    )
    assert bool((whole.clumpiness > 0).all())
    errors = [np.median(pixel_error(found.image.numpy(), truth)) for found in (smooth, whole)]
    assert errors[1] < 0.4 * errors[0]
    assert float(whole.chi2.median()) < float(smooth.chi2.median())


def test_fast__comes_near_the_truth():
    error = pixel_error(RESTORED.image.numpy(), TRUTH)
    assert np.median(error) < 0.015
    assert bool(RESTORED.converged.all())
    assert RESTORED.chi2.median().item() == pytest.approx(1, abs=0.1)


def test_fast__gives_galaxies_what_they_get_alone():
    part = restore(STACK.select(slice(7, 12)), PRIOR, settings=FAST)
    torch.testing.assert_close(part.image, RESTORED.image[7:12], rtol=1e-3, atol=1e-2)


def test_fast__looks_at_all_pixels_of_galaxies_with_masked_ones():
    mask = torch.zeros(STACK.image.shape, dtype=torch.bool)
    mask[::3, 10:13, 12:15] = True
    spoiled = torch.where(mask, torch.nan, STACK.image)
    found = restore(galaxy_stack(spoiled, PSF, sigma=1.0, mask=mask), PRIOR, settings=FAST)
    masked = mask.flatten(1).any(1)
    torch.testing.assert_close(found.image[~masked], RESTORED.image[~masked], rtol=1e-3, atol=1e-2)
    assert np.median(pixel_error(found.image.numpy(), TRUTH)[masked]) < 0.02


def test_fast__without_errors_has_none():
    found = deconvolve(STACK.image[:4], PSF, sigma=1.0, prior=PRIOR, fast=True, error=False)
    assert found.error is None
    assert found.clumpiness.sum() == 0
