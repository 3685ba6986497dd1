"""Accuracy, speed and scaling of the learnt restoration.

    OMP_NUM_THREADS=1 python benchmarks/learnt.py --rows accuracy,mixed,chunks,scaling [--data DIR]
    OMP_NUM_THREADS=1 python benchmarks/learnt.py --rows stream --fast --restored 1000000

Without ``--data`` the galaxies are those of ``benchmarks/galaxies.py`` (seed 101), with it those of
``deconv_A.npz`` in DIR. ``accuracy``: one noise for all, at S/N 1, 5 and 20 (spread of the median
noiseless stamp over the noise), defaults, beside a Wiener filter of the stack's own spectrum.
``mixed``: seven noises in one stack, beside stacks of one noise each, same galaxies.
``chunks``: one prior, the same galaxies in blocks of 7, 64, 100 and 1000 and shuffled, against all
at once; and priors learnt from either half.
``scaling`` and ``stream``: catalogues drawn from the galaxies block by block (``catalogue.py``),
one prior: CPU ms a galaxy and peak memory, of catalogues of 10² to ``--largest`` galaxies, and
tenth by tenth of one of ``--restored``.
``--fast``: all rows but ``mixed`` by low frequencies alone, without errors; ``--no-clumps``: these
by elliptical profiles alone.

Pixel error ‖x − t‖²/‖t‖²; e5: distance of ellipticities of unweighted moments under a Gaussian
window of 5 pixels; e, R²: adaptive moments (HSM) of result and truth, R² relative; medians over
galaxies, ± standard errors of 200 bootstraps, seed 0. Flux: median relative error under the window.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import galsim
import numpy as np
import torch
from catalogue import row_chunks, row_scaling, row_stream
from galaxies import Galaxies, simulated

from psfscale.deconvolve.learnt.learn import deconvolve
from psfscale.deconvolve.learnt.settings import LearntSettings
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
        image = found.image
        name = "fast  " if settings.fast else "learnt"
        print(f"{level:3d} {name}  ", scores(image, galaxies.truth), f"{seconds:6.1f}", flush=True)
        kinds = [pixel_error(image, galaxies.truth)[galaxies.kind == k] for k in range(3)]
        print("    pixel error by kind:", " ".join(f"{np.median(k):.4f}" for k in kinds))


def row_mixed(galaxies):
    level = np.random.default_rng(1).choice(LEVELS, len(galaxies.truth))
    sigma = np.median(galaxies.clean.std((1, 2))) / level
    images = (galaxies.clean + sigma[:, None, None] * galaxies.noise).astype(np.float32)
    found = deconvolve(images, galaxies.psfs, sigma=sigma.astype(np.float32)).image
    print("\nmixed: pixel error and e5 of each group, in the mixed stack / in a stack of its S/N")
    light = window(images.shape[1:])
    for one in LEVELS:
        own = level == one
        plain, noise = galaxies.at_snr(one)
        alone = deconvolve(plain, galaxies.psfs, sigma=noise).image
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of deconv_A.npz; simulated if unset")
    parser.add_argument("--rows", default="accuracy,mixed,chunks,scaling")
    parser.add_argument("--galaxies", type=int, default=1000, help="simulated")
    parser.add_argument("--seed", type=int, default=101, help="of the simulation")
    parser.add_argument("--snr", type=int, default=5, help="of the row chunks")
    parser.add_argument("--largest", type=int, default=10_000, help="of the row scaling")
    parser.add_argument("--restored", type=int, default=100_000, help="of the row stream")
    parser.add_argument("--first", type=int, default=0, help="galaxy that the row stream begins at")
    parser.add_argument("--fast", action="store_true", help="low frequencies alone, no errors")
    parser.add_argument("--no-clumps", action="store_true", help="elliptical profiles alone")
    options = parser.parse_args()
    settings = LearntSettings(
        fast=options.fast, error=not options.fast, clumps=not options.no_clumps
    )
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
        row_chunks(galaxies, settings, options.snr)
    if "scaling" in rows:
        row_scaling(galaxies, settings, options.largest)
    if "stream" in rows:
        row_stream(galaxies, settings, options.restored, first=options.first)


if __name__ == "__main__":
    main()
