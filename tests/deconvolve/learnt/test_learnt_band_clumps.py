"""Clumps on a band: the joint posterior of clumps and profile against dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from learnt_galaxies import gaussian_psf

from psfscale.deconvolve.learnt import band_clumps
from psfscale.deconvolve.learnt.band import WIDE, Band, BandSight
from psfscale.deconvolve.learnt.band_clumps import StrewnField
from psfscale.deconvolve.learnt.fit import ProfileFitter
from psfscale.deconvolve.learnt.prior import vague_prior
from psfscale.deconvolve.stack import galaxy_stack

SIDE = 13
BEAM = 0.5
BAND = Band(shape=(SIDE, SIDE), psf_shape=(7, 7), highest=WIDE, dtype=torch.float64)
FITTER = ProfileFitter(canvas=BAND, prior=vague_prior(0.4, twist=False))


def sight(image):
    return BandSight.of(galaxy_stack(image, PSF, sigma=1.0), BAND, BAND.gaussian(BEAM))


def profile(flux=300.0):
    z = torch.zeros(1, FITTER.basis.layout.size, dtype=torch.float64)
    z[0, 0], z[0, -3:] = np.log(flux), torch.tensor([0.4, 0.2, -0.1])
    return z


def seen(z, clumps=0.0):
    """Stamps of a profile and of clumps, without noise."""
    through = BAND.spectra(PSF[None]) * BAND.gaussian(BEAM)
    return BAND.image((FITTER.basis.spectra(z, torch.ones_like(BAND.fy)) + clumps) * through)


PSF = torch.from_numpy(gaussian_psf(1.1, 7))


def field(image, z):
    return StrewnField.of(sight(image), FITTER, BAND, z)


def dense(one):
    """A as a matrix: values by places of the sky."""
    ny, nx = one.variance.shape[-2:]
    unit = torch.eye(ny * nx, dtype=torch.float64).reshape(-1, ny, nx)
    spectra = BAND.of_half_plane(torch.fft.rfft2(unit))
    response = one.sight.beam * one.sight.scale
    return torch.view_as_real(spectra * response).flatten(1).T


def noisy(z, seed, clumps=0.0):
    noise = np.random.default_rng(seed).normal(size=(1, SIDE, SIDE))
    return seen(z, clumps) + torch.from_numpy(noise)


def test_solved__first_pass_is_the_joint_posterior_mean(monkeypatch):
    monkeypatch.setattr(band_clumps, "SHARPENINGS", 0)
    monkeypatch.setattr(band_clumps, "TOLERANCE", 1e-9)
    monkeypatch.setattr(band_clumps, "MAX_ITERATIONS", 500)
    z = profile()
    one = field(noisy(z, 1), z)
    found = one.solved(torch.tensor([0.02], dtype=torch.float64))
    a = dense(one)
    j = one.sight.seen(one.columns * one.sight.beam[:, None])[0].T
    kept = torch.nonzero(one.variance.flatten() > 0).flatten()
    design = torch.cat([a[:, kept], j], 1)
    # The parameters' own pull to the prior: Σ⁻¹ d is the slope of the whole.
    inverse = torch.linalg.inv(one.covariance[0])
    precision = torch.zeros(design.shape[1], design.shape[1], dtype=torch.float64)
    precision.diagonal()[: len(kept)] = 1 / (0.02 * one.variance.flatten()[kept])
    precision[len(kept) :, len(kept) :] = inverse - j.T @ j
    data = one.rest[0] + j @ one.step[0]
    right = torch.cat([a[:, kept].T @ data, inverse @ one.step[0]])
    both = torch.linalg.solve(design.T @ design + precision, right)
    torch.testing.assert_close(found.sky.flatten()[kept], both[: len(kept)], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.move[0], both[len(kept) :], rtol=1e-5, atol=1e-7)


def test_clumpiness__of_noise_is_small_and_of_clumps_is_their_own():
    z, n = profile(), 200
    rng = np.random.default_rng(2)
    many = z.expand(n, -1).contiguous()
    noise = torch.from_numpy(rng.normal(size=(n, SIDE, SIDE)))
    level = 0.5
    variance = field(seen(z), z).variance
    strewn_ = torch.from_numpy(rng.normal(size=(n, *variance.shape[1:])))
    clumps = BAND.of_half_plane(torch.fft.rfft2((level * variance).sqrt() * strewn_))
    quiet = field(seen(many) + noise, many).clumpiness()
    loud = field(seen(many, clumps) + noise, many).clumpiness()
    # 200 draws (seed 2): the mean of what clumps give is known to 5 %, their light outside the
    # stamp is not seen.
    assert float(quiet.median()) < 0.05 * level
    assert float(loud.mean()) == pytest.approx(level, rel=0.25)


def test_solved__sharpens_a_single_clump_and_restores_it():
    z = profile()
    at = torch.zeros(1, *field(seen(z), z).variance.shape[1:], dtype=torch.float64)
    at[0, 2, -1] = 200.0
    clump = BAND.of_half_plane(torch.fft.rfft2(at))
    one = field(noisy(z, 3, clump), z)
    found = one.solved(one.clumpiness())
    assert int(found.sky.argmax()) == int(at.argmax())
    truth = BAND.image(FITTER.basis.spectra(z, BAND.gaussian(BEAM)) + clump * BAND.gaussian(BEAM))
    image = one.restored(found, sigma=BEAM)
    assert float((image - truth).norm() / truth.norm()) < 0.2
    assert float(image.sum()) == pytest.approx(float(truth.sum()), rel=0.05)
    expected = float(one.sight.n_values)
    assert float(one.remains(found).square().sum()) == pytest.approx(
        expected, abs=4 * (2 * expected) ** 0.5
    )


def test_uncertainty__is_the_posterior_variance_under_even_light():
    z = profile()
    one = field(seen(z), z)
    even = torch.full_like(one.variance, 4.0)
    found = band_clumps.Strewn(sky=torch.zeros_like(even), variance=even, move=one.step)
    a = dense(one)
    posterior = torch.linalg.inv(torch.eye(a.shape[1], dtype=torch.float64) / 4 + a.T @ a)
    ours = one.uncertainty(found, sigma=1e-6)
    assert float(ours[0, 4, 7]) == pytest.approx(float(posterior[0, 0]), rel=0.1)
