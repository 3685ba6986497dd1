"""Galaxies with their truth, each behind its own PSF, the same for the same seed.

A telescope of 1 m with an aberrated pupil, galaxies of three kinds (Sersic; disk with a rounder
bulge; the same with knots), drawn by GalSim through a beam of 0.1 arcsec and the pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import galsim
import numpy as np
from scipy import fft

PIXEL = 0.1
"""[arcsec]"""
SIDE = 41
APERTURE, OBSCURATION = 1.0, 0.28
WAVELENGTH = 0.68
"""[µm]"""
WAVEFRONT = 0.07
"""Root mean square over the field [wave]."""
JITTER = 0.05
"""[arcsec]"""
PUPIL_SIDE = 256
SERSIC, DISK, KNOTTED = range(3)
MIX = (0.40, 0.35, 0.25)


@dataclass(frozen=True, kw_only=True)
class Galaxies:
    """Truth, noiseless and unit-noise stamps, PSFs (object, y, x), and kinds (object,)."""

    truth: np.ndarray
    clean: np.ndarray
    noise: np.ndarray
    psfs: np.ndarray
    kind: np.ndarray

    def at_snr(self, level):
        """Images of one noise, and that noise; S/N is the median stamp's spread over it."""
        sigma = np.median(self.clean.std((1, 2))) / level
        return (self.clean + sigma * self.noise).astype(np.float32), sigma


def simulated(n, *, seed):
    """`n` galaxies of unit flux."""
    rng = np.random.default_rng(seed)
    psfs = _psfs(rng, rng.uniform(-1, 1, (n, 2)))
    kind = rng.choice(3, n, p=MIX)
    truth = np.stack([_drawn(rng, k) for k in kind])
    shape = (2 * SIDE - 1, 2 * SIDE - 1)
    spectra = fft.rfft2(truth, shape) * fft.rfft2(psfs.astype(float), shape)
    middle = slice(SIDE // 2, SIDE // 2 + SIDE)
    clean = fft.irfft2(spectra, shape)[:, middle, middle]
    return Galaxies(
        truth=truth, clean=clean, noise=rng.normal(size=clean.shape), psfs=psfs, kind=kind
    )


def _psfs(rng, at):
    """Fraunhofer PSFs of a quadratic field of Zernikes 4 to 11, sampled twice finer, binned."""
    side = WAVELENGTH * 1e-6 / (PIXEL / 2 * galsim.arcsec / galsim.radians)
    u = (np.arange(PUPIL_SIDE) - PUPIL_SIDE // 2) * (side / PUPIL_SIDE) / (APERTURE / 2)
    x, y = np.meshgrid(u, u)
    r = np.hypot(x, y)
    open_ = (r <= 1) & (r >= OBSCURATION)
    for angle in np.arange(4) * np.pi / 2 + 0.3:
        along = x * np.cos(angle) + y * np.sin(angle)
        open_ &= ~((np.abs(x * np.sin(angle) - y * np.cos(angle)) < 0.03) & (along > 0))
    modes = np.stack(
        [galsim.zernike.Zernike([0] * j + [1])(x[open_], y[open_]) for j in range(4, 12)]
    )
    a, b = at.T
    terms = np.stack([np.ones(len(at)), a, b, a * a, a * b, b * b])
    waves = (rng.normal(size=(8, 6)) * [1, 0.6, 0.6, 0.4, 0.4, 0.4]) @ terms
    waves *= WAVEFRONT / np.sqrt((waves**2).sum(0).mean())
    k = np.fft.fftfreq(PUPIL_SIDE)
    blur = 2 * np.pi**2 * (2 * JITTER / PIXEL) ** 2 * (k**2 + k[:, None] ** 2)
    soft = np.exp(-blur) * np.sinc(2 * k) * np.sinc(2 * k[:, None])
    out = np.empty((len(at), SIDE, SIDE), np.float32)
    first = PUPIL_SIDE // 2 - 2 * (SIDE // 2)
    pixels = slice(first, first + 2 * SIDE - 1, 2)
    for i, wave in enumerate(waves.T):
        field = np.zeros(open_.shape, complex)
        field[open_] = np.exp(2j * np.pi * (wave @ modes))
        intensity = np.abs(fft.fft2(fft.ifftshift(field))) ** 2
        stamp = np.fft.fftshift(fft.ifft2(fft.fft2(intensity) * soft).real)[pixels, pixels]
        out[i] = stamp / stamp.sum()
    return out


def _drawn(rng, kind):
    galaxy = _galaxy(rng, kind)
    g1, g2 = np.clip(rng.normal(0, 0.03, 2), -0.1, 0.1)
    galaxy = galaxy.shear(g1=g1, g2=g2).shift(*rng.uniform(-PIXEL / 2, PIXEL / 2, 2))
    seen = galsim.Convolve(galaxy, galsim.Gaussian(fwhm=0.1))
    return seen.drawImage(nx=SIDE, ny=SIDE, scale=PIXEL, dtype=float).array


def _galaxy(rng, kind):
    radius = np.clip(np.exp(rng.normal(np.log(0.32), 0.45)), 0.09, 1.1)
    q = np.clip(1 - 0.85 * rng.beta(1.6, 2.2), 0.15, 1)
    turn = {"q": q, "beta": rng.uniform(0, 180) * galsim.degrees}
    if kind == SERSIC:
        return _sersic(rng.uniform(0.5, 4.2), radius).shear(**turn)
    disk = _sersic(1.0, radius).shear(**turn)
    bulge = _sersic(rng.uniform(2, 4), radius * rng.uniform(0.2, 0.6))
    share = rng.uniform(0, 0.8)
    galaxy = bulge.shear(**{**turn, "q": np.sqrt(q)}) * share + disk * (1 - share)
    if kind == DISK:
        return galaxy
    share = rng.uniform(0.1, 0.5)
    flux = rng.exponential(size=rng.integers(5, 20))
    places = rng.normal(0, 0.8 * radius, (len(flux), 2))
    knots = [
        galsim.Gaussian(sigma=0.02, flux=f).shift(*p)
        for f, p in zip(flux / flux.sum(), places, strict=True)
    ]
    return galaxy * (1 - share) + galsim.Sum(knots).shear(**turn) * share


def _sersic(index, radius):
    """Indices in steps of 0.05: GalSim keeps a table for each."""
    return galsim.Sersic(n=round(index * 20) / 20, half_light_radius=radius)
