"""Shapes of stars: adaptive moments at the pixels against moments on the model's fine grid.

    python benchmarks/moments.py

Draws stars of one elliptical, undersampled effective PSF at random sub-pixel phases, with
noise, and measures them in two ways: HSM at the pixels of star and shifted model, and HSM on
the fine grid as `psfscale.metrics` does. The model is the truth, 5 % too wide, or 0.02 too
round, so that failures, noise and response to a wrong model can be read off.
"""

from __future__ import annotations

import argparse

import galsim
import numpy as np

from psfscale.metrics import adaptive_moments
from psfscale.metrics.field import OVERSAMPLING
from psfscale.metrics.refit import MARGIN, refit
from psfscale.metrics.star import measure_stars

SIDE = 41
NAMES = ("e1", "e2", "R2")


def profile(fwhm: float, size: float = 1.0, e1: float = 0.08) -> galsim.GSObject:
    """An obstructed Airy pattern blurred by jitter, in pixels, pixel response included."""
    optics = galsim.Airy(lam_over_diam=0.75 * fwhm, obscuration=0.3).shear(e1=e1, e2=-0.05)
    blurred = galsim.Convolve(optics, galsim.Gaussian(sigma=0.2 * fwhm)).dilate(np.sqrt(size))
    return galsim.Convolve(blurred, galsim.Pixel(1.0))


def fine_psf(psf: galsim.GSObject) -> np.ndarray:
    """The PSF on the fine grid, centred on index ``n // 2``."""
    n = (SIDE + 2 * MARGIN) * OVERSAMPLING
    offset = (0.5, 0.5) if n % 2 == 0 else (0.0, 0.0)
    image = psf.drawImage(nx=n, ny=n, scale=1 / OVERSAMPLING, method="no_pixel", offset=offset)
    return image.array.astype(np.float64)


def residuals(star: dict[str, np.ndarray], model: dict[str, np.ndarray]) -> np.ndarray:
    """Star − model of e1, e2 and relative R² of the stars where both were measured."""
    delta = np.stack([star[k] - model[k] for k in NAMES], axis=1)
    delta[:, 2] /= model["R2"]
    return delta[np.isfinite(delta).all(axis=1)]


def both_ways(image: np.ndarray, weight: np.ndarray, psf: np.ndarray) -> dict[str, np.ndarray]:
    """Residuals of the stars at their pixels and on the fine grid."""
    n = len(image)
    model = refit(image, weight, psf, oversampling=OVERSAMPLING).model
    native = [vars(adaptive_moments(stamps, pixel_scale=1.0)) for stamps in (image, model)]
    fine = measure_stars(
        image,
        weight,
        np.broadcast_to(psf, (n, *psf.shape[1:])),
        pixel_scale=1.0,
        jacobian=np.broadcast_to(np.eye(2), (n, 2, 2)),
    )
    columns = [{k: fine.columns[f"{k}_{which}"] for k in NAMES} for which in ("star", "model")]
    return {"pixels": residuals(*native), "fine grid": residuals(*columns)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stars", type=int, default=400)
    parser.add_argument("--snr", type=float, default=100.0)
    parser.add_argument("--fwhm", type=float, nargs="+", default=[1.8, 2.2, 4.4])
    arguments = parser.parse_args()
    columns = "mean δe1   δR²/R²    rms δe1   δR²/R²   true δe1   δR²/R²"
    print(f"FWHM  model      way         failed   {columns}")
    for fwhm in arguments.fwhm:
        rng = np.random.default_rng(1)
        true = profile(fwhm)
        at = rng.uniform(-0.5, 0.5, (arguments.stars, 2))
        unit = np.stack(
            [
                true.drawImage(nx=SIDE, ny=SIDE, scale=1, method="no_pixel", offset=o).array
                for o in at
            ]
        ).astype(np.float64)
        sigma = np.sqrt((unit**2).sum(axis=(1, 2))).mean() / arguments.snr
        image = unit + rng.normal(0, sigma, unit.shape)
        weight = np.full_like(image, sigma**-2)
        truth = adaptive_moments(fine_psf(true)[None], pixel_scale=1 / OVERSAMPLING)
        models = {"true": true, "5 % wide": profile(fwhm, 1.05), "round": profile(fwhm, e1=0.06)}
        for name, model in models.items():
            psf = fine_psf(model)[None]
            drawn = adaptive_moments(psf, pixel_scale=1 / OVERSAMPLING)
            wrong = (truth.e1 - drawn.e1)[0], ((truth.R2 - drawn.R2) / drawn.R2)[0]
            for way, delta in both_ways(image, weight, psf).items():
                failed = 1 - len(delta) / arguments.stars
                mean, rms = delta.mean(axis=0), delta.std(axis=0)
                print(
                    f"{fwhm:4.1f}  {name:9}  {way:10} {failed:7.3f}"
                    f" {mean[0]:+10.4f} {mean[2]:+8.4f} {rms[0]:10.4f} {rms[2]:8.4f}"
                    f" {wrong[0]:+10.4f} {wrong[1]:+8.4f}"
                )


if __name__ == "__main__":
    main()
