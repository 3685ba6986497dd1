"""A small telescope and a field of its stars, drawn by the kernels alone."""

from __future__ import annotations

import numpy as np
import torch

from psfscale.arrays import FieldPoints, StarBatch
from psfscale.kernels.broadband import BroadbandPsf
from psfscale.kernels.pupil import PupilShape, pupil_amplitude, pupil_axis
from psfscale.kernels.zernike import zernikes
from psfscale.models.wavediff_settings import OpticsSettings

SIDE = 1000.0
N = 16
"""Stamp."""
OPTICS = OpticsSettings(
    aperture=1.2,
    focal_length=24.5,
    pixel_size=12.0,
    minimum=0.6,
    maximum=0.85,
    discs=((0.0, 100.0, 400.0),),
    vanes=((300.0, 150.0, 25.0, 40.0, 500.0),),
    pupil_samples=32,
    binned=3,
    normalised="stamp",
)
WAVELENGTH = np.linspace(0.62, 0.83, 4)


def coefficients(x: np.ndarray, y: np.ndarray, *, seed: int = 1, rms: float = 0.06) -> np.ndarray:
    """(star, 10) Zernikes [µm], linear in position."""
    rng = np.random.default_rng(seed)
    field = rng.normal(size=(10, 3)) * rms / 3 * np.array([1, 0.5, 0.5])
    field[:3] *= [[0], [0.5], [0.5]]
    return np.stack([np.ones_like(x), 2 * x / SIDE - 1, 2 * y / SIDE - 1], 1) @ field.T


def draw(z: np.ndarray, sed: np.ndarray, *, n: int = N) -> np.ndarray:
    """Stamps of unit sum: 3 x 3 point samples summed, the axis on the first of pixel n // 2."""
    shape = PupilShape(diameter=1200, discs=OPTICS.discs, vanes=OPTICS.vanes)
    amplitude = pupil_amplitude(shape, 32, grid="areas")
    axis = pupil_axis(32, grid="areas")
    opd = np.einsum("sj,jyx->syx", z, zernikes(z.shape[1], *np.meshgrid(axis, axis)))
    camera = BroadbandPsf(
        amplitude=torch.from_numpy(amplitude),
        wavelengths=tuple(WAVELENGTH),
        path_step=1.2e6 / 32 * 12 / 24.5e6 / 3,
        response=torch.from_numpy(np.kron(np.eye(n), np.ones(3))),
        axis=3.0 * (n // 2),
    )
    return camera.draw(torch.from_numpy(opd), torch.from_numpy(sed)).numpy()


def spectra(n: int, *, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(4, 3.0), n)


def points(n: int, *, seed: int = 3) -> FieldPoints:
    x, y = np.random.default_rng(seed).uniform(0, SIDE, (2, n))
    return FieldPoints(x=x, y=y, sed=spectra(n, seed=seed), wavelength=WAVELENGTH)


def stars(
    n: int = 40,
    *,
    snr: float = 150.0,
    flux: float = 1.0,
    background: float = 0.0,
    shifts: float = 0.0,
    seed: int = 5,
) -> StarBatch:
    """Noisy stars; `shifts` is the half-width of their centres' scatter [pixel]."""
    at = points(n, seed=seed)
    rng = np.random.default_rng(seed)
    z = coefficients(at.x, at.y)
    z[:, 1:3] += rng.uniform(-1, 1, (n, 2)) * shifts * 1.2 * 12 / 24.5 / 4
    clean = flux * draw(z, at.sed)
    sigma = np.sqrt((clean**2).sum((1, 2))) / snr
    image = clean + background + sigma[:, None, None] * rng.normal(size=clean.shape)
    weight = np.broadcast_to(1 / sigma[:, None, None] ** 2, image.shape).copy()
    return StarBatch(
        image=image, weight=weight, x=at.x, y=at.y, sed=at.sed, wavelength=at.wavelength
    )
