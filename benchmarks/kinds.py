"""Restored galaxies by kind: errors, flux bias, and how far their standard errors are right.

    OMP_NUM_THREADS=1 python benchmarks/kinds.py --modes wiener,learnt,fast --seed 978 [--data DIR]

One noise for all galaxies, at each S/N. For all galaxies and for each kind (Sersic, disk and bulge,
knotted): median pixel error, e5 and flux under the window in per cent ± standard error, as in
``benchmarks/learnt.py``. Pulls: median of |restored − truth| / error over that of a unit Gaussian,
of the pixels above a tenth of a galaxy's peak and of those between a hundredth and a tenth.
``--knotted`` takes knotted galaxies alone. ``--pairs`` restores each galaxy under a noise and its
opposite and takes the mean of both fluxes: the noise leaves the bias to second order.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import galaxies as simulation
import numpy as np
import torch
from galaxies import Galaxies, simulated
from learnt import ellipticity, pixel_error, stored, wiener, window

import psfscale
from psfscale.deconvolve.learnt.learn import deconvolve

BRIGHT, FAINT = 0.1, 0.01
HALF = 0.6745
"""Median |x| of a unit Gaussian."""


def restored(mode, images, psfs, sigma):
    """Images and standard errors, or None."""
    if mode == "wiener":
        return wiener(images, psfs, sigma), None
    if mode in {"learnt", "fast"}:
        found = deconvolve(images, psfs, sigma=sigma, fast=mode == "fast")
    else:
        found = psfscale.deconvolve(images, psfs, sigma=sigma, mode=mode)
    return found.image, found.error


def flux_error(found, truth):
    light = window(truth.shape[1:])
    return (found * light).sum((1, 2)) / (truth * light).sum((1, 2)) - 1


def middle(values):
    draws = np.random.default_rng(0).integers(0, len(values), (200, len(values)))
    return np.median(values), np.median(values[draws], axis=1).std()


def pulls(found, error, truth):
    peak = truth.max((1, 2), keepdims=True)
    z = np.abs(found - truth) / error / HALF
    zones = (truth > BRIGHT * peak, (truth > FAINT * peak) & (truth <= BRIGHT * peak))
    return " ".join(f"{np.median(z[zone]):4.2f}" for zone in zones)


def columns(found, error, flux, truth):
    light = window(truth.shape[1:])
    e5 = np.hypot(*(ellipticity(found * light) - ellipticity(truth * light)).T)
    bias, spread = middle(100 * flux)
    row = f"{np.median(pixel_error(found, truth)):.4f} {np.median(e5):.4f} {bias:+.2f}±{spread:.2f}"
    return row + ("" if error is None else " " + pulls(found, error, truth))


def table(galaxies, level, modes, *, pairs):
    images, sigma = galaxies.at_snr(level)
    kinds = [None, *np.unique(galaxies.kind)]
    for mode in modes:
        start = time.process_time()
        found, error = restored(mode, images, galaxies.psfs, sigma)
        seconds = time.process_time() - start
        flux = flux_error(found, galaxies.truth)
        if pairs:
            opposite = (2 * galaxies.clean - images).astype(np.float32)
            other, _ = restored(mode, opposite, galaxies.psfs, sigma)
            flux = (flux + flux_error(other, galaxies.truth)) / 2
        cells = []
        for kind in kinds:
            own = slice(None) if kind is None else galaxies.kind == kind
            part = None if error is None else error[own]
            cells.append(columns(found[own], part, flux[own], galaxies.truth[own]))
        print(f"{level:3d} {mode:7s}", " | ".join(cells), f"| {seconds:.1f} CPU s", flush=True)


def of_kind(galaxies, kind):
    own = galaxies.kind == kind
    names = ("truth", "clean", "noise", "psfs", "kind")
    return Galaxies(**{name: getattr(galaxies, name)[own] for name in names})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of deconv_A.npz; simulated if unset")
    parser.add_argument("--modes", default="wiener,learnt,fast")
    parser.add_argument("--snr", default="1,5,20")
    parser.add_argument("--galaxies", type=int, default=400, help="simulated")
    parser.add_argument("--seed", type=int, default=978, help="of the simulation")
    parser.add_argument("--knotted", action="store_true", help="knotted galaxies alone")
    parser.add_argument("--pairs", action="store_true", help="flux under a noise and its opposite")
    options = parser.parse_args()
    torch.set_num_threads(1)
    galaxies = (
        stored(options.data) if options.data else simulated(options.galaxies, seed=options.seed)
    )
    if options.knotted:
        galaxies = of_kind(galaxies, simulation.KNOTTED)
    counts = np.bincount(galaxies.kind, minlength=3)
    print(f"{len(galaxies.truth)} galaxies, of them", counts, "Sersic, disk and bulge, knotted")
    print("pixel, e5, flux [%], pulls bright and faint: of all, then of each kind")
    for level in map(int, options.snr.split(",")):
        table(galaxies, level, options.modes.split(","), pairs=options.pairs)


if __name__ == "__main__":
    main()
