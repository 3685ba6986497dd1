"""Galaxies of a known population, drawn in real space, and what a CCD sees of them."""

from __future__ import annotations

import galsim
import numpy as np
import torch
from scipy.signal import fftconvolve

from psfscale.deconvolve.stack import galaxy_stack

SIDE = 33
BEAM = 0.5
"""Width σ of the beam of every truth [pixel]."""


def gaussian_psf(sigma=1.6, side=21, *, scale=1.0):
    y, x = (np.mgrid[:side, :side] - side // 2) * scale
    psf = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    return psf / psf.sum()


def sheared(profile, e1, e2, dy=0.0, dx=0.0):
    """A galaxy through the beam; e1, e2 a distortion."""
    return galsim.Convolve(profile.shear(e1=e1, e2=e2).shift(dx, dy), galsim.Gaussian(sigma=BEAM))


def draw(profile, *, side=SIDE, scale=1.0):
    """Samples of a profile, not integrals over pixels."""
    return profile.drawImage(nx=side, ny=side, scale=scale, method="sb", dtype=float).array


def population(n, *, seed, flux=1000.0):
    """Exponential galaxies: ln half-light radius 0.9 ± 0.25, distortions 0.25 a component."""
    rng = np.random.default_rng(seed)
    galaxies = []
    for _ in range(n):
        e = np.clip(rng.normal(0, 0.25, 2), -0.6, 0.6)
        radius = np.exp(rng.normal(0.9, 0.25))
        profile = galsim.Exponential(half_light_radius=radius, flux=flux)
        galaxies.append(draw(sheared(profile, *e, *rng.uniform(-0.5, 0.5, 2))))
    return np.stack(galaxies)


def observed(truth, psf, *, sigma, seed):
    """A stack of galaxies blurred by one PSF, with white noise."""
    clean = np.stack([fftconvolve(t, psf, mode="same") for t in truth])
    noise = np.random.default_rng(seed).normal(0, sigma, clean.shape)
    return galaxy_stack(torch.from_numpy(clean + noise).float(), psf, sigma=sigma)


def pixel_error(restored, truth):
    """Relative squared error of each galaxy."""
    return ((restored - truth) ** 2).sum((1, 2)) / (truth**2).sum((1, 2))
