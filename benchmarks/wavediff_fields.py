"""Fields of stars on the recipe of the published WaveDiff simulator, with truth.

The recipe is that of Liaudat et al. 2023 (docs/methods/wavediff.md says which of its numbers):
uniform positions, 45 Zernikes whose coefficients are quadratic in position, 80 nm rms in the
mean, 13 stellar spectra in 20 bins, energy signal-to-noise 10 to 110. Options leave the family
of the model: surface errors beyond mode 45, wrong spectra, jitter, random centroids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from psfscale.kernels.optics.broadband import BroadbandPsf
from psfscale.kernels.optics.zernike import zernikes
from psfscale.kernels.response import binned_pixel, filter_taps, gaussian_blur, pixel_matrix

APERTURE, FOCAL_LENGTH, PIXEL = 1.2e6, 24.5e6, 12.0  # µm
SIDE = 1000.0
BINS = 20
N_ZERNIKES = 45
MEAN_ERROR = 0.080  # µm rms
DRIFTS, DRIFT_LENGTH = 16, 400.0
"""Maps of a drifting surface, and the length over which their shares vary [pixel]."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """Stars and truth.

    Attributes
    ----------
    x, y, sed, wavelength : of the stars
    coefficients : (star, zernike) [µm]
    surface : (star, y, x) [µm], what the Zernikes do not hold, or None
    jitter : σ [pixel]
    shift : (star, 2) tip and tilt [µm rms]
    """

    amplitude: np.ndarray
    x: np.ndarray
    y: np.ndarray
    sed: np.ndarray
    wavelength: np.ndarray
    coefficients: np.ndarray
    surface: np.ndarray | None
    jitter: float

    def opd(self, chosen) -> torch.Tensor:
        opd = np.einsum("sj,jyx->syx", self.coefficients[chosen], _modes(len(self.amplitude)))
        if self.surface is not None:
            opd = opd + self.surface[chosen]
        return torch.from_numpy(opd).float()

    def draw(self, *, oversampled: bool, sed=None, wavelength=None, step=50) -> np.ndarray:
        """Stamps as the published simulator draws them: 32x32, or 64x64 at 3x, unit sums."""
        sed = self.sed if sed is None else sed
        wavelength = self.wavelength if wavelength is None else wavelength
        optics = published_optics(
            self.amplitude, wavelength, oversampled=oversampled, jitter=self.jitter
        )
        weights = torch.from_numpy(sed).float()
        parts = [np.arange(k, min(k + step, len(self.x))) for k in range(0, len(self.x), step)]
        return np.concatenate([optics.draw(self.opd(p), weights[p]).numpy() for p in parts])


def published_optics(amplitude, wavelength, *, oversampled, jitter=0.0, size=None):
    """The published conventions: point samples at 3x, summed 3x3 at 1x, axis on sample n // 2."""
    step = PIXEL / 3 / FOCAL_LENGTH * APERTURE / len(amplitude)
    pixel = (lambda f: np.ones_like(f)) if oversampled else binned_pixel(3)
    reach = (0 if oversampled else 1) + int(np.ceil(15 * jitter))
    blur = gaussian_blur(jitter)
    taps = filter_taps(lambda f: pixel(f) * blur(f), samples=3, reach=reach, band_limit=1.2)
    n = size or (64 if oversampled else 32)
    matrix = pixel_matrix(taps, n_pixels=n, stride=1 if oversampled else 3)
    axis = (n // 2 if oversampled else 3 * (n // 2) - 1) + reach
    a = torch.from_numpy(np.asarray(amplitude, np.float32))
    return BroadbandPsf(
        amplitude=a,
        wavelengths=tuple(float(w) for w in wavelength),
        path_step=step,
        response=torch.from_numpy(matrix).float(),
        axis=float(axis),
    )


_CACHE: dict[int, np.ndarray] = {}


def _modes(n):
    if n not in _CACHE:
        u = np.linspace(-1, 1, n)
        x, y = np.meshgrid(u, u)
        _CACHE[n] = zernikes(N_ZERNIKES, x, y)
    return _CACHE[n]


def monomials(x, y, degree=2):
    u, v = 2 * x / SIDE - 1, 2 * y / SIDE - 1
    return np.stack([u ** (d - p) * v**p for d in range(degree + 1) for p in range(d + 1)], -1)


def smooth_field(rng, n_rows, degree=2):
    """Rows of unit rms over the field, each a polynomial through a jittered 4x4 grid."""
    side = np.linspace(SIDE / 8, 7 * SIDE / 8, 4)
    x, y = (g.ravel() + rng.uniform(-SIDE / 16, SIDE / 16, 16) for g in np.meshgrid(side, side))
    rows = np.linalg.lstsq(monomials(x, y, degree), rng.normal(size=(16, n_rows)), rcond=None)[0].T
    gx, gy = (g.ravel() for g in np.meshgrid(side, side))
    return rows / np.linalg.norm(monomials(gx, gy, degree) @ rows.T, axis=0)[:, None] * 4


def rough_surface(rng, amplitude, n, *, x, y, rms, slope=2.5, law="poly"):
    """Surface errors orthogonal to the Zernikes, of a power-law spectrum.

    They vary over the field as ``law`` says: poly, quadratically, each term its own map; drift, one
    map that stays, and sixteen whose shares are harmonics of random period, of half its strength.
    """
    side = len(amplitude)
    if law == "poly":
        share = monomials(x, y) * np.array([1, 0.5, 0.5, 0.3, 0.3, 0.3])
    else:
        wave = rng.normal(size=(2, DRIFTS)) / DRIFT_LENGTH
        turn = np.outer(x, wave[0]) + np.outer(y, wave[1]) + rng.uniform(0, 2 * np.pi, DRIFTS)
        share = np.concatenate(
            [np.ones((len(x), 1)), 0.5 * np.sqrt(2 / DRIFTS) * np.cos(turn)], axis=1
        )
    k = np.hypot(np.fft.fftfreq(2 * side)[:, None], np.fft.fftfreq(2 * side)[None, :]) * 2 * side
    k[0, 0] = np.inf
    n_maps = share.shape[1]
    noise = np.fft.fft2(rng.normal(size=(n_maps, 2 * side, 2 * side)))
    maps = np.fft.ifft2(noise * k ** (-slope / 2)).real[:, :side, :side]
    modes = _modes(side).reshape(N_ZERNIKES, -1)
    inside = amplitude.ravel() > 0
    design = modes[:, inside].T
    flat = maps.reshape(n_maps, -1)[:, inside].T
    flat = flat - design @ np.linalg.lstsq(design, flat, rcond=None)[0]
    maps = np.zeros((n_maps, side * side))
    maps[:, inside] = flat.T / flat.std(axis=0)[:, None]
    surface = (share @ maps).reshape(n, side, side)
    norm = np.sqrt((surface.reshape(n, -1)[:, inside] ** 2).mean())
    return (surface * (rms / norm)).astype(np.float32)


def draw_field(
    seed,
    n,
    *,
    amplitude,
    table,
    table_wavelength,
    n_test=100,
    surface_rms=0.0,
    jitter=0.0,
    centroids=0.0,
    slope=2.5,
    law="poly",
):
    """Training and test stars of one telescope state; test stars have no centroid scatter."""
    rng = np.random.default_rng(seed)
    total = n + n_test
    rows = smooth_field(rng, N_ZERNIKES)
    side = np.linspace(SIDE / 8, 7 * SIDE / 8, 4)
    gx, gy = (g.ravel() for g in np.meshgrid(side, side))
    rms = np.sqrt(((monomials(gx, gy) @ rows.T) ** 2).sum(1)).mean()
    rows *= MEAN_ERROR / rms
    x, y = rng.uniform(0, SIDE, (2, total))
    coefficients = monomials(x, y) @ rows.T
    scatter = rng.uniform(-0.5, 0.5, (total, 2)) * centroids
    scatter[n:] = 0
    # Over a unit disc tip has slope 2 across the radius: one pixel is D·PIXEL/f/4 of rms OPD.
    coefficients[:, 1:3] += scatter * APERTURE * PIXEL / FOCAL_LENGTH / 4
    wavelength, sed = binned_spectra(table, table_wavelength)
    sed = sed[rng.integers(0, len(sed), total)]
    surface = None
    if surface_rms:
        surface = rough_surface(
            rng, np.asarray(amplitude), total, x=x, y=y, rms=surface_rms, slope=slope, law=law
        )

    def part(chosen):
        return Field(
            amplitude=np.asarray(amplitude),
            x=x[chosen],
            y=y[chosen],
            sed=sed[chosen],
            wavelength=wavelength,
            coefficients=coefficients[chosen],
            surface=None if surface is None else surface[chosen],
            jitter=jitter,
        )

    train, test = part(slice(0, n)), part(slice(n, total))
    clean = train.draw(oversampled=False)
    snr = rng.uniform(10, 110, n)
    sigma = np.sqrt((clean**2).sum((1, 2)) / (snr * clean[0].size))
    noisy = clean + sigma[:, None, None] * rng.normal(size=clean.shape)
    return train, test, clean, noisy.astype(np.float32), sigma


def binned_spectra(table, table_wavelength, n=BINS):
    """(wavelength [µm], photons per bin) of templates in equal bins."""
    edges = np.linspace(0.55, 0.90, n + 1)
    index = np.clip(np.searchsorted(edges, table_wavelength, side="right") - 1, 0, n - 1)
    sed = np.stack([np.bincount(index, weights=row, minlength=n) for row in table])
    return 0.5 * (edges[1:] + edges[:-1]), sed / sed.sum(1, keepdims=True)
