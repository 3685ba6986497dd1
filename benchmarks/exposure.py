"""Time and memory of RCA on one exposure: 36 CCDs of 150 stars of 32x32, 3x.

    OMP_NUM_THREADS=1 python benchmarks/exposure.py --data DIR [--device cuda]

Stars are drawn from ``rca_field_A.npz``, with the CCD's number as seed. Memory is the highest
of the process, and what that lies above the process with all imported and the data read.
Timings are CPU seconds of one thread, or wall seconds on an accelerator.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import torch

from psfscale.arrays import StarBatch
from psfscale.models.rca.model import RCA
from psfscale.models.rca.settings import RCASettings

N_CCDS = 36
BAND_LIMIT = 1.2 / 0.8e-6 * np.deg2rad(0.1 / 3600)
"""Field A: 1.2 m aperture, 800 nm, 0.1 arcsec pixels [cycle/CCD pixel]."""


def stars_of(z, ccd):
    chosen = np.random.default_rng(ccd).choice(len(z["obs"]), 150, replace=False)
    image = z["obs"][chosen, 5:37, 5:37]
    x, y = z["pos"][chosen].T
    return StarBatch(image=image, weight=np.ones_like(image), x=x, y=y)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def seconds_each(ccds, *, chunk, device):
    """Seconds a CCD, in batches of `chunk`."""
    settings = RCASettings(upsampling=3, band_limit=BAND_LIMIT)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    taken = []
    for first in range(0, len(ccds), chunk):
        part = ccds[first : first + chunk]
        start = clock()
        RCA.fit_batch(part, settings, device=device)
        taken += [(clock() - start) / len(part)] * len(part)
    return np.array(taken)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of rca_field_A.npz")
    parser.add_argument("--device", default="cpu", type=torch.device)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with np.load(options.data / "rca_field_A.npz") as file:
        z = {name: file[name] for name in ("obs", "pos")}
    ccds = [stars_of(z, ccd) for ccd in range(N_CCDS)]
    start = peak()
    print(f"\nexposure: {N_CCDS} CCDs x 150 stars of 32x32, 3x (seeds 0-{N_CCDS - 1})")
    print(f"imports and data: {start:.0f} MB")
    cpu = options.device.type == "cpu"
    if not cpu:
        seconds_each(ccds[:2], chunk=2, device=options.device)
    for chunk in (1, 2, 4, 8) if cpu else (1, 6, 36):
        n = N_CCDS if chunk == 1 or not cpu else 8
        taken = seconds_each(ccds[:n], chunk=chunk, device=options.device)
        print(
            f"{n} CCDs by {chunk}: {taken.mean():.2f} s a CCD (worst {taken.max():.2f}), "
            f"peak {peak():.0f} MB, {peak() - start:.0f} MB above",
            flush=True,
        )


if __name__ == "__main__":
    main()
