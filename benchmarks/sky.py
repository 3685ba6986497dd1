"""Flux of restored galaxies where backgrounds leave a level under them.

    OMP_NUM_THREADS=1 python benchmarks/sky.py [--galaxies N] [--seed K]
    OMP_NUM_THREADS=1 python benchmarks/sky.py --run demo/run.zarr --survey demo/survey.zarr

The first form adds levels to simulated galaxies (``galaxies.py``); a level of 0.1 holds a tenth of
a galaxy's flux in its stamp. It prints the level that is found and the median relative error of the
restored flux ± its standard error, with the sky in the model and without. The second takes a run
and its survey, and prints restored over catalogue flux of the galaxies without another object in
the stamp (mean ± standard error, median), by flux, and of the stars: what of it the stamp holds.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from galaxies import simulated

import psfscale
from psfscale.deconvolve.learnt.learn import deconvolve

LEVELS = (0.0, 0.02, 0.1, 0.4)
FLUXES = (0, 1000, 3000, 10_000, np.inf)
"""[electron]"""


def added(n, seed):
    """Levels of one value under simulated galaxies."""
    galaxies = simulated(n, seed=seed)
    flux, pixels = galaxies.truth.sum((1, 2)), galaxies.truth[0].size
    print(f"{n} galaxies, seed {seed}\nS/N  mode  level  found  flux, sky fitted   not fitted")
    for snr in (1, 5, 20):
        images, sigma = galaxies.at_snr(snr)
        for fast in (False, True):
            for level in LEVELS:
                told = f"{snr:3d}  {'fast' if fast else 'full'}  {level:5.2f}"
                for sky in (True, False):
                    found = deconvolve(
                        images + level / pixels, galaxies.psfs, sigma=sigma, fast=fast, sky=sky
                    )
                    off = found.flux / flux - 1
                    if sky:
                        told += f"  {found.profile.prior.sky_mean * pixels:5.3f}"
                    told += f"  {np.median(off):7.4f} ± {off.std() / np.sqrt(n):.4f}"
                print(told, flush=True)


def isolated(galaxies, stars, ccd):
    """Which galaxies of a CCD have no other object in their stamps."""
    reach = galaxies["image"].shape[-1] // 2
    at = [np.stack([g["x"][ccd], g["y"][ccd]], -1) for g in (galaxies, stars)]
    held = [g["role"].values[ccd] > 0 for g in (galaxies, stars)]
    others = np.concatenate([at[0][held[0]], at[1][held[1]]])
    away = np.abs(at[0][:, None] - others).max(-1)
    return held[0] & ((away <= reach).sum(1) == 1)


def of_a_run(run, survey):
    """Restored over catalogue flux in a run."""
    tree = psfscale.open_run(run).tree
    sky = xr.open_datatree(survey, engine="zarr")
    galaxies, stars = sky["galaxies"].dataset, sky["stars"].dataset
    restored = tree["galaxies"].dataset["restored_flux"].values
    fitted = tree["stars"].dataset["flux"].values
    alone = np.stack(
        [
            [
                isolated(galaxies.isel(exposure=e), stars.isel(exposure=e), c)
                for c in range(galaxies.sizes["ccd"])
            ]
            for e in range(galaxies.sizes["exposure"])
        ]
    )
    report("galaxies", restored, galaxies["flux"].values, alone)
    report("stars", fitted, stars["flux"].values, np.isfinite(fitted))


def report(name, found, catalogue, chosen):
    for low, high in pairwise(FLUXES):
        use = chosen & (catalogue > low) & (catalogue <= high) & np.isfinite(found)
        if not use.any():
            continue
        ratio = found[use] / catalogue[use]
        print(
            f"{name:8s} {low:6d} to {high:6.0f}: n {use.sum():5d}  mean {ratio.mean():.3f} ± "
            f"{ratio.std() / np.sqrt(use.sum()):.3f}  median {np.median(ratio):.3f}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--galaxies", type=int, default=200)
    parser.add_argument("--seed", type=int, default=541)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--survey", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.run:
        of_a_run(options.run, options.survey)
    else:
        added(options.galaxies, options.seed)


if __name__ == "__main__":
    main()
