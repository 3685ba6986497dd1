"""Accuracy, speed and scaling of the learnt restoration.

    OMP_NUM_THREADS=1 python benchmarks/learnt.py --rows accuracy,mixed,chunks,scaling [--data DIR]

Without ``--data`` the galaxies are those of ``benchmarks/galaxies.py`` (seed 101), with it those of
``deconv_A.npz`` in DIR. ``accuracy``: one noise for all, at S/N 1, 5 and 20 (spread of the median
noiseless stamp over the noise), defaults, beside a Wiener filter of the stack's own spectrum.
``mixed``: seven noises in one stack, beside stacks of one noise each, same galaxies.
``chunks``: one prior, blocks of 7 against all at once; and priors learnt from either half.
``scaling``: galaxies repeated, blocks of 500, one prior: CPU ms a galaxy and peak memory.
``--fast``: all rows but ``mixed`` by low frequencies alone, without errors.

Pixel error ‖x − t‖²/‖t‖²; e5: distance of ellipticities of unweighted moments under a Gaussian
window of 5 pixels; e, R²: adaptive moments (HSM) of result and truth, R² relative; medians over
galaxies, ± standard errors of 200 bootstraps, seed 0. Flux: median relative error under the window.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import galsim
import numpy as np
import torch
from galaxies import Galaxies, simulated

from psfscale.deconvolve.learnt.learn import deconvolve, learn_prior
from psfscale.deconvolve.learnt.restore import restore
from psfscale.deconvolve.learnt.settings import LearntSettings
from psfscale.deconvolve.stack import galaxy_stack
from psfscale.kernels.convolution import Convolution

LEVELS = (1, 2, 3, 4, 5, 10, 20)
WINDOW = 5.0


def window(shape):
    y, x = (np.arange(n) - n // 2 for n in shape)
    return np.exp(-(y[:, None] ** 2 + x**2) / (2 * WINDOW**2))


def ellipticity(images):
    """(object, 2) by unweighted moments."""
    y, x = np.mgrid[: images.shape[1], : images.shape[2]]
    flux = images.sum((1, 2))
    dx = x - ((images * x).sum((1, 2)) / flux)[:, None, None]
    dy = y - ((images * y).sum((1, 2)) / flux)[:, None, None]
    xx, yy, xy = ((images * m).sum((1, 2)) for m in (dx * dx, dy * dy, dx * dy))
    return np.stack([xx - yy, 2 * xy], 1) / (xx + yy)[:, None]


def adaptive(image):
    """(e1, e2, R²), NaN where HSM fails."""
    found = galsim.hsm.FindAdaptiveMom(galsim.Image(np.ascontiguousarray(image)), strict=False)
    if found.error_message:
        return np.nan, np.nan, np.nan
    return found.observed_shape.e1, found.observed_shape.e2, 2 * found.moments_sigma**2


def pixel_error(found, truth):
    return ((found - truth) ** 2).sum((1, 2)) / (truth**2).sum((1, 2))


def median(values):
    draws = np.random.default_rng(0).integers(0, len(values), (200, len(values)))
    return f"{np.nanmedian(values):.4f}±{np.nanmedian(values[draws], axis=1).std():.4f}"


def scores(found, truth):
    found, light = found.astype(float), window(truth.shape[1:])
    e5 = np.hypot(*(ellipticity(found * light) - ellipticity(truth * light)).T)
    a, b = (np.array([adaptive(i) for i in images]) for images in (found, truth))
    e, r2 = np.hypot(*(a - b)[:, :2].T), np.abs(a[:, 2] / b[:, 2] - 1)
    flux = (found * light).sum((1, 2)) / (truth * light).sum((1, 2)) - 1
    failed = int(np.isnan(a[:, 0]).sum())
    columns = [median(v) for v in (pixel_error(found, truth), e5, e, r2, flux)]
    return " ".join(f"{c:>14s}" for c in columns) + f" {failed:4d}"


def wiener(images, psfs, sigma):
    """Zero-padded Wiener filter, isotropic spectrum of the stack itself, made to fall."""
    blur = Convolution(psf=torch.from_numpy(psfs), shape=images.shape[1:], boundary="zero")
    k = blur.transfer.numpy()
    data = np.fft.rfft2(images, blur.padded)
    ky, kx = np.fft.fftfreq(blur.padded[0])[:, None], np.fft.rfftfreq(blur.padded[1])
    ring = (np.hypot(ky, kx) * min(blur.padded)).round().astype(int)
    noise = images[0].size * np.broadcast_to(sigma, len(images))[:, None, None] ** 2
    excess = np.bincount(ring.ravel(), (np.abs(data) ** 2 - noise).sum(0).ravel())
    seen = np.bincount(ring.ravel(), (np.abs(k) ** 2).sum(0).ravel())
    power = np.minimum.accumulate(np.maximum(excess / seen, 1e-12))[ring]
    restored = np.fft.irfft2(data * k.conj() / (np.abs(k) ** 2 + noise / power), blur.padded)
    return restored[:, : images.shape[1], : images.shape[2]]


def stored(data):
    with np.load(data / "deconv_A.npz", allow_pickle=False) as z:
        noise = (z["images"] - z["clean"]) / z["sigma"][:, None, None]
        return Galaxies(
            truth=z["truth"].astype(float),
            clean=z["clean"].astype(float),
            noise=noise,
            psfs=z["psfs"],
            kind=z["params"][:, 0].astype(int),
        )


def row_accuracy(galaxies, settings):
    heads = ("pixel", "e5", "e HSM", "R2 HSM", "flux")
    print(f"\naccuracy: {len(galaxies.truth)} galaxies")
    print(f"{'':12s}" + " ".join(f"{h:>14s}" for h in heads) + " lost CPU s")
    for level in (1, 5, 20):
        images, sigma = galaxies.at_snr(level)
        print(f"{level:3d} wiener  ", scores(wiener(images, galaxies.psfs, sigma), galaxies.truth))
        start = time.process_time()
        found = deconvolve(images, galaxies.psfs, sigma=sigma, settings=settings)
        seconds = time.process_time() - start
        image = found.image.numpy()
        name = "fast  " if settings.fast else "learnt"
        print(f"{level:3d} {name}  ", scores(image, galaxies.truth), f"{seconds:6.1f}", flush=True)
        kinds = [pixel_error(image, galaxies.truth)[galaxies.kind == k] for k in range(3)]
        print("    pixel error by kind:", " ".join(f"{np.median(k):.4f}" for k in kinds))


def row_mixed(galaxies):
    level = np.random.default_rng(1).choice(LEVELS, len(galaxies.truth))
    sigma = np.median(galaxies.clean.std((1, 2))) / level
    images = (galaxies.clean + sigma[:, None, None] * galaxies.noise).astype(np.float32)
    found = deconvolve(images, galaxies.psfs, sigma=sigma.astype(np.float32)).image.numpy()
    print("\nmixed: pixel error and e5 of each group, in the mixed stack / in a stack of its S/N")
    light = window(images.shape[1:])
    for one in LEVELS:
        own = level == one
        plain, noise = galaxies.at_snr(one)
        alone = deconvolve(plain, galaxies.psfs, sigma=noise).image.numpy()
        columns = []
        for x in (found, alone):
            gap = ellipticity(x[own] * light) - ellipticity(galaxies.truth[own] * light)
            px = np.median(pixel_error(x[own], galaxies.truth[own]))
            columns.append((px, np.median(np.hypot(*gap.T))))
        (a, b), (c, d) = columns
        print(
            f"{one:3d} n={own.sum():4d}  {a:.4f} / {c:.4f} ({a / c - 1:+.1%})   "
            f"{b:.4f} / {d:.4f} ({b / d - 1:+.1%})",
            flush=True,
        )


def row_chunks(galaxies, settings):
    images, sigma = galaxies.at_snr(5)
    stack = galaxy_stack(images, galaxies.psfs, sigma=sigma)
    n = len(stack)
    halves = [learn_prior([stack.select(slice(i, n, 2))], settings=settings) for i in (0, 1)]

    def image(some, prior):
        return restore(some, prior, settings=settings).image.double()

    whole, other = image(stack, halves[0]), image(stack, halves[1])
    parts = [image(stack.select(slice(i, i + 7)), halves[0]) for i in range(0, n, 7)]
    print("\nchunks, S/N 5: relative difference of the results, median and largest of galaxies")
    for name, found in (("blocks of 7", torch.cat(parts)), ("other half's prior", other)):
        gap = (found - whole).norm(dim=(1, 2)) / whole.norm(dim=(1, 2))
        print(f"  {name:20s} {float(gap.median()):.2e} {float(gap.max()):.2e}")
    errors = [np.median(pixel_error(x.numpy(), galaxies.truth)) for x in (whole, other)]
    print(f"  pixel error {errors[0]:.4f} and {errors[1]:.4f}")


def row_scaling(galaxies, settings, largest):
    images, sigma = galaxies.at_snr(5)
    stack = galaxy_stack(images, galaxies.psfs, sigma=sigma)
    start = time.process_time()
    prior = learn_prior([stack.select(slice(0, 500))], settings=settings)
    print(f"\nscaling, S/N 5: prior learnt from 500 in {time.process_time() - start:.1f} CPU s")
    restore(stack.select(slice(0, 100)), prior, settings=settings)  # not timed: first use
    block, n = 500, 100
    while n <= largest:
        start = time.process_time()
        for first in range(0, n, block):
            at = torch.arange(first, min(first + block, n)) % len(stack)
            restore(stack.select(at), prior, settings=settings)
        each = (time.process_time() - start) / n * 1e3
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"  {n:7d} galaxies: {each:.2f} CPU ms each, peak {peak:.0f} MB", flush=True)
        n *= 10


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of deconv_A.npz; simulated if unset")
    parser.add_argument("--rows", default="accuracy,mixed,chunks,scaling")
    parser.add_argument("--galaxies", type=int, default=1000, help="simulated")
    parser.add_argument("--seed", type=int, default=101, help="of the simulation")
    parser.add_argument("--largest", type=int, default=10_000, help="of the row scaling")
    parser.add_argument("--fast", action="store_true", help="low frequencies alone, no errors")
    options = parser.parse_args()
    settings = LearntSettings(fast=True, error=False) if options.fast else LearntSettings()
    torch.set_num_threads(1)
    rows = options.rows.split(",")
    galaxies = (
        stored(options.data) if options.data else simulated(options.galaxies, seed=options.seed)
    )
    if "accuracy" in rows:
        row_accuracy(galaxies, settings)
    if "mixed" in rows:
        row_mixed(galaxies)
    if "chunks" in rows:
        row_chunks(galaxies, settings)
    if "scaling" in rows:
        row_scaling(galaxies, settings, options.largest)


if __name__ == "__main__":
    main()
