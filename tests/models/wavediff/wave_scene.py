"""A small telescope and a field of its stars, drawn by the kernels alone."""

from __future__ import annotations

import numpy as np
import torch

from psfscale.arrays import FieldPoints, StarBatch
from psfscale.kernels.optics.broadband import BroadbandPsf
from psfscale.kernels.optics.pupil import PupilShape, pupil_amplitude, pupil_axis
from psfscale.kernels.optics.zernike import zernikes
from psfscale.models.wavediff.settings import OpticsSettings

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


def ripple(x: np.ndarray, *, rms: float = 0.02) -> np.ndarray:
    """(star, y, x) surface [µm] of 3 to 4 cycles across the pupil, stronger along x."""
    axis = pupil_axis(32, grid="areas")
    u, v = np.meshgrid(axis, axis)
    wave = np.sin(3.2 * np.pi * u + 1.5 * np.pi * v) + np.sin(4 * np.pi * v - np.pi * u + 1)
    return rms * (0.7 + 0.6 * x / SIDE)[:, None, None] * wave


def draw(
    z: np.ndarray, sed: np.ndarray, *, n: int = N, surface: np.ndarray | float = 0.0
) -> np.ndarray:
    """Stamps of unit sum: 3 x 3 point samples summed, the axis on the first of pixel n // 2."""
    shape = PupilShape(diameter=1200, discs=OPTICS.discs, vanes=OPTICS.vanes)
    amplitude = pupil_amplitude(shape, 32, grid="areas")
    axis = pupil_axis(32, grid="areas")
    opd = np.einsum("sj,jyx->syx", z, zernikes(z.shape[1], *np.meshgrid(axis, axis)))
    opd = opd + surface
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
    rippled: bool = False,
    defocus: float = 0.0,
    seed: int = 5,
) -> StarBatch:
    """Noisy stars; `shifts` is the half-width of their centres' scatter [pixel].

    `defocus` is the rms of that of their own [µm].
    """
    at = points(n, seed=seed)
    rng = np.random.default_rng(seed)
    z = coefficients(at.x, at.y)
    z[:, 1:3] += rng.uniform(-1, 1, (n, 2)) * shifts * 1.2 * 12 / 24.5 / 4
    z[:, 3] += defocus * np.random.default_rng(seed + 1).normal(size=n)
    clean = flux * draw(z, at.sed, surface=ripple(at.x) if rippled else 0.0)
    sigma = np.sqrt((clean**2).sum((1, 2))) / snr
    image = clean + background + sigma[:, None, None] * rng.normal(size=clean.shape)
    weight = np.broadcast_to(1 / sigma[:, None, None] ** 2, image.shape).copy()
    return StarBatch(
        image=image, weight=weight, x=at.x, y=at.y, sed=at.sed, wavelength=at.wavelength
    )


Covariance = tuple[float, float, float]
"""(xx, xy, yy) of a Gaussian blur [pixel²]."""


def blurred_stars(scene: StarBatch, *, covariance: Covariance) -> StarBatch:
    """The same stars under a Gaussian blur, drawn again without their noise."""
    at = scene.points
    rng = np.random.default_rng(11)
    z = coefficients(at.x, at.y)
    wide = draw_blurred(z, at.sed, covariance=covariance)
    noise = np.sqrt((wide**2).sum((1, 2))) / 300
    image = wide + noise[:, None, None] * rng.normal(size=wide.shape)
    weight = np.broadcast_to(1 / noise[:, None, None] ** 2, image.shape).copy()
    return StarBatch(
        image=image, weight=weight, x=at.x, y=at.y, sed=at.sed, wavelength=at.wavelength
    )


def draw_blurred(z: np.ndarray, sed: np.ndarray, *, covariance: Covariance) -> np.ndarray:
    """`draw` of wider stamps at 3 samples a pixel, convolved in Fourier space, binned, cut."""
    n = N + 8
    shape = PupilShape(diameter=1200, discs=OPTICS.discs, vanes=OPTICS.vanes)
    amplitude = pupil_amplitude(shape, 32, grid="areas")
    axis = pupil_axis(32, grid="areas")
    opd = np.einsum("sj,jyx->syx", z, zernikes(z.shape[1], *np.meshgrid(axis, axis)))
    f = np.fft.fftfreq(3 * n, 1 / 3)
    (xx, xy, yy), (fy, fx) = covariance, (f[:, None], f[None, :])
    blur = np.exp(-2 * np.pi**2 * (xx * fx**2 + 2 * xy * fx * fy + yy * fy**2))
    total = 0.0
    for k, wavelength in enumerate(WAVELENGTH):
        camera = BroadbandPsf(
            amplitude=torch.from_numpy(amplitude),
            wavelengths=(wavelength,),
            path_step=1.2e6 / 32 * 12 / 24.5e6 / 3,
            response=torch.eye(3 * n, dtype=torch.float64),
            axis=3.0 * (n // 2),
        )
        samples = camera.draw(torch.from_numpy(opd), torch.ones(len(z), 1).double()).numpy()
        samples = np.fft.ifft2(np.fft.fft2(samples) * blur).real
        stamp = samples.reshape(-1, n, 3, n, 3).sum((2, 4))[:, 4:-4, 4:-4]
        total = total + sed[:, k, None, None] * stamp / stamp.sum((1, 2), keepdims=True)
    return np.asarray(total)
