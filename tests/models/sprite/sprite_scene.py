"""PSFs with truth for the tests of SPRITE."""

from __future__ import annotations

import numpy as np


def gaussian(n: int, *, step: float, y: float, x: float, sigma: float, ratio: float) -> np.ndarray:
    """Elliptical Gaussian sampled every `step` CCD pixels, centred (y, x) off index n // 2."""
    offset = (np.arange(n) - n // 2) * step
    dy, dx = offset[:, None] - y, offset[None, :] - x
    square = (dy / sigma) ** 2 + (dx / (sigma * ratio)) ** 2
    return np.exp(-square / 2) * step**2 / (2 * np.pi * sigma**2 * ratio)


def psf(n: int, *, step: float, y: float = 0.0, x: float = 0.0) -> np.ndarray:
    """A core and a lobe beside it: neither round nor symmetric, band-limited at 1 to 1e-4."""
    core = gaussian(n, step=step, y=y, x=x, sigma=0.8, ratio=1.2)
    lobe = gaussian(n, step=step, y=y + 1.0, x=x - 1.5, sigma=0.7, ratio=0.9)
    return 0.8 * core + 0.2 * lobe


def stamps(n_psfs: int, n_exposures: int, *, snr: float, seed: int, size: int = 20):
    """Images (psf, exposure, y, x), shifts (psf, exposure, 2), fluxes and noise (psf, exposure)."""
    rng = np.random.default_rng(seed)
    shifts = rng.uniform(-0.5, 0.5, (n_psfs, n_exposures, 2))
    flux = 1000 * rng.uniform(0.8, 1.2, (n_psfs, n_exposures))
    clean = np.array([[psf(size, step=1.0, y=y, x=x) for y, x in row] for row in shifts])
    clean *= flux[..., None, None]
    sigma = np.sqrt((clean**2).sum((2, 3))) / snr
    noisy = clean + sigma[..., None, None] * rng.normal(size=clean.shape)
    return noisy, shifts, flux, sigma


def aligned_error(model: np.ndarray, truth: np.ndarray) -> float:
    """Relative L2 after the best amplitude and shift, to first order in the shift."""
    k = 2j * np.pi * np.fft.fftfreq(len(model))
    spectrum = np.fft.fft2(model)
    columns = [model, *(np.fft.ifft2(k_ * spectrum).real for k_ in (k[:, None], k[None, :]))]
    design = np.stack([c.ravel() for c in columns], 1)
    rest = truth.ravel() - design @ np.linalg.lstsq(design, truth.ravel(), rcond=None)[0]
    return float(np.linalg.norm(rest) / np.linalg.norm(truth))
