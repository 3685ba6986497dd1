"""Stars with Moffat profiles, sampled at pixel centres, in noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Stars:
    image: np.ndarray
    weight: np.ndarray
    x: np.ndarray
    y: np.ndarray


def moffat_stars(
    *,
    seed: int,
    n: int = 60,
    side: int = 21,
    fwhm: float = 3.0,
    beta: float = 3.0,
    snr: tuple[float, float] = (10, 300),
    noise: float = 10.0,
    phase: float | None = None,
) -> Stars:
    """Stars of a CCD of 1000 × 1000 pixels, cut at the pixel nearest to x, y."""
    rng = np.random.default_rng(seed)
    place = rng.uniform(20, 980, (2, n))
    if phase is not None:
        place = np.rint(place) + phase
    off_x, off_y = place - np.floor(place + 0.5)
    y, x = np.mgrid[:side, :side] - side // 2
    scale = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    r2 = (x - off_x[:, None, None]) ** 2 + (y - off_y[:, None, None]) ** 2
    psf = (1 + r2 / scale**2) ** -beta
    psf /= psf.sum(axis=(1, 2), keepdims=True)
    signal = np.exp(rng.uniform(*np.log(snr), n)) * noise / np.sqrt((psf**2).sum(axis=(1, 2)))
    image = signal[:, None, None] * psf + rng.normal(0, noise, psf.shape)
    weight = np.full(psf.shape, noise**-2, np.float32)
    return Stars(image=image.astype(np.float32), weight=weight, x=place[0], y=place[1])
