"""Galaxies of known truth: elliptical Gaussians seen through Gaussian PSFs, one each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIDE = 21


@dataclass(frozen=True)
class Scene:
    images: np.ndarray
    psfs: np.ndarray
    truth: np.ndarray
    sigma: float


def gaussians(rng, n, *, width, ellipticity, side=SIDE):
    y, x = np.mgrid[:side, :side] - side // 2
    size = rng.uniform(*width, n)[:, None, None]
    e1, e2 = rng.uniform(-ellipticity, ellipticity, (2, n, 1, 1))
    square = (x**2 * (1 - e1) + y**2 * (1 + e1) - 2 * e2 * x * y) / size**2
    image = np.exp(-square / 2)
    return image / image.sum((1, 2), keepdims=True)


def circular(images, psfs):
    shift = tuple(-(n // 2) for n in psfs.shape[1:])
    kernel = np.roll(psfs, shift, (1, 2))
    return np.fft.irfft2(np.fft.rfft2(images) * np.fft.rfft2(kernel), s=images.shape[1:])


def scene(n=24, *, snr=20.0, fixed=False, psf_width=(1.2, 1.6), seed=3, dtype=np.float64):
    """Galaxies whose noise is 1/snr of their peak-to-sky spread."""
    rng = np.random.default_rng(seed)
    truth = gaussians(rng, n, width=(1.5, 2.5), ellipticity=0.3)
    psfs = gaussians(rng, 1 if fixed else n, width=psf_width, ellipticity=0.1)
    clean = circular(truth, psfs)
    sigma = float(clean.std(axis=(1, 2)).mean() / snr)
    images = clean + sigma * rng.normal(size=clean.shape)
    return Scene(
        images=images.astype(dtype),
        psfs=(psfs[0] if fixed else psfs).astype(dtype),
        truth=truth.astype(dtype),
        sigma=sigma,
    )


def pixel_error(found, truth):
    found = np.asarray(found)
    return ((found - truth) ** 2).sum((1, 2)) / (truth**2).sum((1, 2))
