"""A simulated exposure of four CCDs with known PSFs, by GalSim, the same for the same seed."""

from __future__ import annotations

from dataclasses import dataclass

import galsim
import numpy as np

from psfscale.arrays import FieldPoints, StarBatch

PIXEL = 0.1
"""CCD pixel [arcsec]."""

SIDE = 1000.0
"""Side of a CCD [pixel]."""

LAYOUT = ((-1.0, -1.0), (0.0, -1.0), (-1.0, 0.0), (0.0, 0.0))
"""Lower left corner (u, v) of each CCD on a focal plane that spans [-1, 1]."""


@dataclass(frozen=True, kw_only=True)
class SimulatedCcd:
    """Noisy stars of one CCD, and the true PSFs at other positions.

    Attributes
    ----------
    stars : noise σ 1, S/N log-uniform in 20-200
    at : test positions
    truth : (position, y, x), 3 pixels a CCD pixel, unit sum, pixel response included
    """

    stars: StarBatch
    at: FieldPoints
    truth: np.ndarray


class Aberrations:
    """Zernike 4-11 [wave] as quadratics plus a cosine of the focal-plane position."""

    def __init__(self, generator, rms):
        self.quadratic = generator.normal(size=(8, 6))
        self.wave = generator.uniform(1.0, 3.0, (8, 2))
        self.phase = generator.uniform(0.0, 2 * np.pi, 8)
        self.strength = 0.5 * generator.normal(size=8)
        u, v = (p.ravel() for p in np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-1, 1, 21)))
        self.scale = 1.0
        self.scale = rms / np.sqrt((self(u, v) ** 2).sum(1).mean())

    def __call__(self, u, v):
        """(position, term) at focal-plane positions."""
        terms = np.stack([np.ones_like(u), u, v, u * u, u * v, v * v])
        waves = np.cos(self.wave @ np.stack([u, v]) + self.phase[:, None])
        return self.scale * (self.quadratic @ terms + self.strength[:, None] * waves).T


def profile(zernikes):
    """The PSF of a 1.2 m telescope at 750 nm with jitter and pixel."""
    optics = galsim.OpticalPSF(
        lam=750.0,
        diam=1.2,
        obscuration=0.3,
        nstruts=3,
        strut_thick=0.03,
        aberrations=[0.0] * 4 + list(zernikes),
        pad_factor=1.5,
        oversampling=1.5,
    )
    return galsim.Convolve(optics, galsim.Gaussian(sigma=0.03), galsim.Pixel(PIXEL))


def drawn(psf, side, scale, shift=(0.0, 0.0)):
    """A stamp centred on index side // 2, moved by `shift` (y, x) [pixel]."""
    even = side // 2 - (side - 1) / 2
    offset = shift[1] + even, shift[0] + even
    options = {"nx": side, "ny": side, "scale": scale, "method": "no_pixel", "offset": offset}
    return psf.drawImage(**options).array.astype(float)


def four_ccds(*, seed, n_stars=150, n_test=30, side=32):
    """The CCDs of one exposure."""
    generator = np.random.default_rng(seed)
    aberrations = Aberrations(generator, rms=0.06)
    return [
        simulated_ccd(aberrations, corner, generator, n_stars, n_test, side) for corner in LAYOUT
    ]


def simulated_ccd(aberrations, corner, generator, n_stars, n_test, side):
    x, y = generator.uniform(0, SIDE, (2, n_stars + n_test))
    zernikes = aberrations(corner[0] + x / SIDE, corner[1] + y / SIDE)
    shifts = generator.uniform(-0.5, 0.5, (n_stars, 2))
    snr = np.exp(generator.uniform(np.log(20), np.log(200), n_stars))
    pairs = zip(zernikes[:n_stars], shifts, strict=True)
    clean = np.stack([drawn(profile(z), side, PIXEL, shift) for z, shift in pairs])
    clean *= (snr / np.sqrt((clean**2).sum((1, 2))))[:, None, None]
    image = (clean + generator.normal(size=clean.shape)).astype(np.float32)
    truth = np.stack([drawn(profile(z), 3 * side, PIXEL / 3) for z in zernikes[n_stars:]])
    return SimulatedCcd(
        stars=StarBatch(image=image, weight=np.ones_like(image), x=x[:n_stars], y=y[:n_stars]),
        at=FieldPoints(x=x[n_stars:], y=y[n_stars:]),
        truth=truth / truth.sum((1, 2), keepdims=True),
    )
