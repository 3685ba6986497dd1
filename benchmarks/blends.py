"""How many neighbours the flag BLENDED finds, and how many galaxies it flags that have none.

    OMP_NUM_THREADS=1 python benchmarks/blends.py --seed 978

Galaxies of ``benchmarks/galaxies.py``; to each of the smooth ones another galaxy is added, of a
tenth to once its flux (even in the logarithm), 6 to 18 pixels away, behind the first one's PSF.
Shares flagged: of smooth and of knotted galaxies alone, of the pairs by distance. Oracle: the S/N
of the neighbour for one who knows all of the scene but its flux, the least of all pairs and the
median.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from galaxies import KNOTTED, SIDE, simulated
from scipy.signal import fftconvolve

from psfscale.arrays import ObjectFlag
from psfscale.deconvolve.learnt.learn import learn_prior
from psfscale.deconvolve.learnt.restore import restore
from psfscale.deconvolve.stack import galaxy_stack

NEAR, FAR = 6, 18
"""Distances of neighbours [pixel]."""
STEP = 4


def neighbours(galaxies, chosen, rng):
    """Neighbours as they are seen, and their distances."""
    distance = rng.uniform(NEAR, FAR, len(chosen))
    angle = rng.uniform(0, 2 * np.pi, len(chosen))
    ratio = 10 ** rng.uniform(-1, 0, len(chosen))
    other = rng.permutation(len(galaxies.truth))[: len(chosen)]
    out = np.zeros((len(chosen), SIDE, SIDE))
    for k, (i, j) in enumerate(zip(chosen, other, strict=True)):
        dy, dx = (round(float(distance[k] * f(angle[k]))) for f in (np.sin, np.cos))
        wide = np.pad(galaxies.truth[j] * ratio[k], FAR + 1)
        y, x = FAR + 1 - dy, FAR + 1 - dx
        out[k] = fftconvolve(wide[y : y + SIDE, x : x + SIDE], galaxies.psfs[i], mode="same")
    return out, distance


def flagged(images, psfs, sigma, prior):
    stack = galaxy_stack(images.astype(np.float32), psfs, sigma=sigma)
    return (restore(stack, prior).flags & ObjectFlag.BLENDED).numpy() > 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--galaxies", type=int, default=240)
    parser.add_argument("--seed", type=int, default=978)
    parser.add_argument("--snr", default="1,5,20")
    options = parser.parse_args()
    torch.set_num_threads(1)
    galaxies = simulated(options.galaxies, seed=options.seed)
    smooth = np.flatnonzero(galaxies.kind != KNOTTED)
    beside, distance = neighbours(galaxies, smooth, np.random.default_rng(options.seed))
    rings = range(NEAR, FAR, STEP)
    for level in map(int, options.snr.split(",")):
        images, sigma = galaxies.at_snr(level)
        stack = galaxy_stack(images, galaxies.psfs, sigma=sigma)
        prior = learn_prior([stack])
        alone = flagged(images, galaxies.psfs, sigma, prior)
        pairs = flagged(images[smooth] + beside, galaxies.psfs[smooth], sigma, prior)
        oracle = np.sqrt((beside**2).sum((1, 2))) / sigma
        by_ring = [pairs[(distance >= r) & (distance < r + STEP)].mean() for r in rings]
        print(
            f"S/N {level:2d}: smooth alone {alone[smooth].mean():.3f}, knotted alone "
            f"{alone[galaxies.kind == KNOTTED].mean():.2f}; pairs {pairs.mean():.2f}, by distance",
            " ".join(
                f"{r}-{r + STEP}: {found:.2f}" for r, found in zip(rings, by_ring, strict=True)
            ),
            f"; oracle {oracle.min():.1f}, {np.median(oracle):.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
