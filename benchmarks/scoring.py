"""How a PSF model is scored: against the truth, and against stars it has not seen."""

from __future__ import annotations

from dataclasses import dataclass

import galsim
import numpy as np

from psfscale.arrays import PixelGrid

FINE = 4
"""Pixels a CCD pixel at which a model is drawn before it is shifted onto a star."""

STARTS = ((0.0, 0.0), (-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5))


def shift_slopes(spectrum, ky, kx):
    """A spectrum and its derivatives with a shift along y and x."""
    return [spectrum, -2j * np.pi * ky * spectrum, -2j * np.pi * kx * spectrum]


def aligned_error(model, truth):
    """Relative L2 distance after the best sub-pixel shift and amplitude."""
    ky, kx = np.fft.fftfreq(truth.shape[0])[:, None], np.fft.rfftfreq(truth.shape[1])[None, :]
    spectrum = np.fft.rfft2(model)
    for _ in range(6):
        slopes = shift_slopes(spectrum, ky, kx)
        design = np.stack([np.fft.irfft2(s, truth.shape).ravel() for s in slopes], axis=1)
        a, dy, dx = np.linalg.lstsq(design, truth.ravel(), rcond=None)[0]
        spectrum = spectrum * np.exp(-2j * np.pi * (ky * dy + kx * dx) / a)
    best = np.fft.irfft2(spectrum, truth.shape)
    amplitude = (best * truth).sum() / (best**2).sum()
    return np.linalg.norm(amplitude * best - truth) / np.linalg.norm(truth)


def shape_of(psf):
    """(e1, e2, R²) by adaptive moments, NaN where they fail."""
    moments = galsim.hsm.FindAdaptiveMom(
        galsim.Image(np.ascontiguousarray(psf, dtype=float)), strict=False
    )
    if moments.error_message:
        return np.nan, np.nan, np.nan
    shape = moments.observed_shape
    return shape.e1, shape.e2, 2 * moments.moments_sigma**2


def field_scores(psf, truth):
    """Mean aligned error; rms error of e1, e2 and, relative, R² where moments are found."""
    shapes = np.array([shape_of(p) for p in psf])
    expected = np.array([shape_of(p) for p in truth])
    e1, e2, _ = np.sqrt(np.nanmean((shapes - expected) ** 2, axis=0))
    size = np.sqrt(np.nanmean((shapes[:, 2] / expected[:, 2] - 1) ** 2))
    error = np.mean([aligned_error(p, t) for p, t in zip(psf, truth, strict=True)])
    return error, e1, e2, size


def fitted_to_star(predict, at, image, weight, *, n_steps=8):
    """Model stamps with flux and centre fitted to each star by weighted least squares."""
    ny, nx = image.shape[1:]
    grid = PixelGrid(shape=((ny + 8) * FINE, (nx + 8) * FINE), oversampling=FINE)
    psf = np.asarray(predict(at, grid), dtype=float)
    triples = zip(psf, image, weight, strict=True)
    return np.stack([star_fit(p, i, w, n_steps) for p, i, w in triples])


def star_fit(psf, image, weight, n_steps):
    """The best of several starts, each a Gauss-Newton descent in flux and centre."""
    image = np.where(weight > 0, image, 0.0)
    descents = (descent(psf, image, weight, start, n_steps) for start in STARTS)
    stamps = [stamp for stamp in descents if stamp is not None]
    if not stamps:
        return np.zeros_like(image)
    return min(stamps, key=lambda stamp: (weight * (image - stamp) ** 2).sum())


def descent(psf, image, weight, start, n_steps):
    """The stamp that a start leads to, None where its flux does not stay positive."""
    ny, nx = image.shape
    my, mx = (n // FINE for n in psf.shape)
    ky, kx = np.fft.fftfreq(my * FINE)[:, None] * FINE, np.fft.fftfreq(mx * FINE)[None, :] * FINE
    spectrum = np.fft.fft2(np.roll(psf, [-(n // 2) for n in psf.shape], (0, 1)))
    pixels = np.ix_((np.arange(ny) - ny // 2) % my, (np.arange(nx) - nx // 2) % mx)

    def sampled(s):
        folded = s.reshape(FINE, my, FINE, mx).sum((0, 2)) / FINE**2
        return np.fft.ifft2(folded).real[pixels]

    root = np.sqrt(weight).ravel()
    dy, dx = start
    for _ in range(n_steps):
        shifted = spectrum * np.exp(-2j * np.pi * ky * dy) * np.exp(-2j * np.pi * kx * dx)
        design = np.stack([sampled(s).ravel() for s in shift_slopes(shifted, ky, kx)], axis=1)
        normal, right = root[:, None] * design, root * image.ravel()
        flux, a, b = np.linalg.solve(normal.T @ normal, normal.T @ right)
        if not flux > 0:
            return None
        dy, dx = dy + np.clip(a / flux, -0.3, 0.3), dx + np.clip(b / flux, -0.3, 0.3)
    stamp = sampled(spectrum * np.exp(-2j * np.pi * ky * dy) * np.exp(-2j * np.pi * kx * dx))
    return (weight * stamp * image).sum() / (weight * stamp**2).sum() * stamp


@dataclass(frozen=True, kw_only=True)
class StarScores:
    """Residuals of held-out stars over their unmasked pixels.

    Attributes
    ----------
    star_nmse : (star,) ‖star − model‖² / ‖star‖²
    nmse : its mean over the stars
    relative : root of the sum of squares, over all stars, against the stars' own
    chi : median over the stars of RMS residual / (1.4826 MAD of the star's pixels)
    sky_chi : RMS over all pixels of all stars, in the σ of the weights
    """

    star_nmse: np.ndarray
    nmse: float
    relative: float
    chi: float
    sky_chi: float


def star_scores(stamps, image, weight):
    good = weight > 0
    image, residual = np.where(good, image, 0.0), np.where(good, image - stamps, 0.0)
    square = (residual**2).sum((1, 2))
    power = (image**2).sum((1, 2))
    rms = np.sqrt(square / good.sum((1, 2)))
    noise = np.array([median_deviation(i[g]) for i, g in zip(image, good, strict=True)])
    return StarScores(
        star_nmse=square / power,
        nmse=float(np.mean(square / power)),
        relative=float(np.sqrt(square.sum() / power.sum())),
        chi=float(np.median(rms / noise)),
        sky_chi=float(np.sqrt((weight * residual**2).sum() / good.sum())),
    )


def median_deviation(values):
    """σ of a Gaussian of the same median absolute deviation."""
    return 1.4826 * np.median(np.abs(values - np.median(values)))
