"""Accuracy and speed of SPRITE on PSFs of `rca_field_A.npz`.

    OMP_NUM_THREADS=1 python benchmarks/sprite.py --data DIR

Stamps are made from the field's true PSFs (3 samples a CCD pixel, centre on index 63) by exact
Fourier shifts: centres uniform within ±0.5 pixel, fluxes within ±20 %, white noise of such σ
that sqrt(sum I²)/σ is the stated S/N of every stamp. The truth on the D×D grid is the same
resampling. The error is relative L2 after the best sub-pixel shift and amplitude, mean over
PSFs ± its standard error.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from psfscale.models.sprite.model import SPRITE

BAND_LIMIT = 1.2 / 0.8e-6 * np.deg2rad(0.1 / 3600)
"""Field A: 1.2 m aperture, 800 nm, 0.1 arcsec pixels [cycle/CCD pixel]."""


@dataclass(frozen=True)
class Case:
    upsampling: int
    exposures: int
    snr: float
    goal: float
    reference: str


CASES = (
    Case(2, 4, 200, 0.045, "0.079, 0.044"),
    Case(2, 4, 50, 0.09, "0.122"),
    Case(2, 4, 20, 0.15, "0.206"),
    Case(2, 16, 50, 0.05, "0.061"),
    Case(3, 8, 100, 0.15, "0.207"),
)


def resampled(truth: np.ndarray, n: int) -> np.ndarray:
    """PSFs (psf, N, N) on a grid of n < N pixels over the same field, centred on n // 2."""
    size = truth.shape[-1]
    spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(truth, axes=(1, 2))), axes=(1, 2))
    low = size // 2 - n // 2
    cut = spectrum[:, low : low + n, low : low + n].copy()
    if n < size and n % 2 == 0:
        cut[:, 0] = 0
        cut[:, :, 0] = 0
    image = np.fft.ifft2(np.fft.ifftshift(cut, axes=(1, 2))).real
    image = np.fft.fftshift(image, axes=(1, 2))
    return image / image.sum((1, 2), keepdims=True)


def stamps_of(
    truth: np.ndarray, case: Case, seed: int, n: int = 42
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stamps (psf, exposure, n, n), shifts (psf, exposure, 2) and noise (psf, exposure)."""
    rng = np.random.default_rng(seed)
    size = truth.shape[-1]
    step = size // n
    pair = (len(truth), case.exposures)
    shifts = rng.uniform(-0.5, 0.5, (*pair, 2))
    flux = rng.uniform(0.8, 1.2, pair)
    cycles = np.fft.fftfreq(size) * step
    waves = np.exp(-2j * np.pi * cycles * shifts[..., None])
    waves[..., size // 2] = 0
    spectrum = np.fft.fft2(truth)[:, None] * waves[:, :, 0, :, None] * waves[:, :, 1, None, :]
    clean = np.fft.ifft2(spectrum).real[..., ::step, ::step] * step**2 * flux[..., None, None]
    sigma = np.sqrt((clean**2).sum((2, 3))) / case.snr
    return clean + sigma[..., None, None] * rng.normal(size=clean.shape), shifts, sigma


def aligned_errors(model: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Relative L2 of each PSF after the best shift and amplitude (Gauss-Newton in Fourier)."""
    m, t = np.fft.fft2(model), np.fft.fft2(truth)
    k = -2j * np.pi * np.fft.fftfreq(model.shape[-1])
    move = np.zeros((len(model), 2))
    best = np.full(len(model), np.inf)
    for _ in range(12):
        b = m * np.exp(k[:, None] * move[:, :1, None] + k * move[:, 1:, None])
        design = np.stack([b, k[:, None] * b, k * b], 1)
        normal = np.einsum("pixy,pjxy->pij", design.conj(), design).real
        right = np.einsum("pixy,pxy->pi", design.conj(), t).real
        power = (np.abs(b) ** 2).sum((1, 2))
        amplitude = (b.conj() * t).real.sum((1, 2)) / power
        residual = t - amplitude[:, None, None] * b
        error = np.sqrt((np.abs(residual) ** 2).sum((1, 2)) / (np.abs(t) ** 2).sum((1, 2)))
        best = np.minimum(best, error)
        step = np.linalg.solve(normal, right[..., None])[..., 0]
        move += np.clip(step[:, 1:] / step[:, :1], -1, 1)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of rca_field_A.npz")
    parser.add_argument("--psfs", type=int, default=100, help="how many PSFs of the field")
    parser.add_argument("--seed", type=int, default=1, help="seed of the stamps of each row")
    parser.add_argument("--set", action="append", default=[], help="setting=value for SPRITE")
    parser.add_argument("--rows", default="0,1,2,3,4", help="which rows of the table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    options = dict(item.split("=", 1) for item in args.set)
    with np.load(args.data / "rca_field_A.npz") as file:
        truth = file["truth"][: args.psfs].astype(np.float64)
    print(f"n = {len(truth)} PSFs, seed {args.seed}, one thread, settings {options or 'default'}")
    print(
        "D K  SNR | limit  | error ± s.e.      worst | goal  C++          | "
        "shift rms  chi2   converged | CPU s/PSF"
    )
    for case in (CASES[int(i)] for i in args.rows.split(",")):
        images, shifts, _ = stamps_of(truth, case, args.seed)
        fine = resampled(truth, case.upsampling * images.shape[-1])
        for limit in (BAND_LIMIT, None):
            start = time.process_time()
            sprite = SPRITE(upsampling=case.upsampling, band_limit=limit, **options)
            result = sprite.fit(images.astype(np.float32))
            seconds = (time.process_time() - start) / len(truth)
            error = aligned_errors(result.psf.astype(np.float64), fine)
            found = np.stack([result.shift_y, result.shift_x], -1) - shifts
            found -= found.mean(1, keepdims=True)
            print(
                f"{case.upsampling} {case.exposures:2d} {case.snr:4.0f} | "
                f"{'known ' if limit else 'unknown'[:6]} | {error.mean():.4f} ± "
                f"{error.std() / np.sqrt(len(error)):.4f}   {error.max():.4f} | "
                f"{case.goal:.3f} {case.reference:12s} | {np.sqrt((found**2).mean()):.4f}    "
                f" {result.chi2.mean():.3f}   {result.converged.mean():.2f}"
                f"      | {seconds:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
