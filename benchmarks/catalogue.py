"""Restoration of catalogues of any length: rows of ``learnt.py``.

A catalogue is drawn block by block and no longer held than a block lasts: each galaxy is one of a
pool, turned by quarters or mirrored together with its PSF, with noise of its own.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from psfscale.deconvolve.learnt.learn import learn_prior
from psfscale.deconvolve.learnt.restore import restore
from psfscale.deconvolve.stack import galaxy_stack

BLOCK = 500
SNR = 5
CUTS = (7, 64, 100, 1000)
TENTHS = 10


@dataclass(frozen=True)
class Block:
    """Images, PSFs and truth (object, y, x); the noise of all."""

    images: np.ndarray
    psfs: np.ndarray
    truth: np.ndarray
    sigma: float


class Catalogue:
    """Galaxies in blocks, the same for the same pool and seed."""

    def __init__(self, galaxies, *, seed=0):
        self.truth, self.clean, self.psfs = (
            a.astype(np.float32) for a in (galaxies.truth, galaxies.clean, galaxies.psfs)
        )
        self.sigma = float(galaxies.at_snr(SNR)[1])
        self.seed = seed

    def block(self, number, n=BLOCK):
        """The first `n` galaxies of a block."""
        rng = np.random.default_rng([self.seed, number])
        chosen, turn = rng.integers(0, len(self.clean), BLOCK), rng.integers(0, 8, BLOCK)
        clean, psfs, truth = (self._turned(a[chosen], turn) for a in self._arrays)
        noise = rng.standard_normal(clean.shape, dtype=np.float32)
        return Block((clean + self.sigma * noise)[:n], psfs[:n], truth[:n], self.sigma)

    def blocks(self, n, *, first=0):
        """Blocks of `n` galaxies together, from the one that galaxy number `first` is in."""
        for number in range(-(-n // BLOCK)):
            yield self.block(first // BLOCK + number, min(BLOCK, n - number * BLOCK))

    @property
    def _arrays(self):
        return self.clean, self.psfs, self.truth

    @staticmethod
    def _turned(stamps, turn):
        """Stamps, centred on n // 2 of an odd side, turned by quarters, mirrored from 4 on."""
        for k in range(8):
            own = turn == k
            found = np.rot90(stamps[own], k % 4, (1, 2))
            stamps[own] = found[:, :, ::-1] if k > 3 else found
        return stamps


class Meter:
    """CPU time of what is restored, and the highest memory of the process since it was asked."""

    def __init__(self):
        self.seconds, self.n = 0.0, 0

    def restore(self, block, prior, settings):
        start = time.process_time()
        stack = galaxy_stack(block.images, block.psfs, sigma=block.sigma)
        found = restore(stack, prior, settings=settings)
        self.seconds += time.process_time() - start
        self.n += len(stack)
        return found

    @property
    def each(self):
        """CPU ms a galaxy."""
        return self.seconds / self.n * 1e3


def peak():
    """Highest resident memory since the last call [MB]; since the start where Linux tells no more.

    Writing 5 to clear_refs sets the mark back to what is resident now.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        high = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        high = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return high / 1024


def _prior(catalogue, settings):
    """Learnt from a block that is not among the restored ones."""
    start = time.process_time()
    block = catalogue.block(2**31)
    stack = galaxy_stack(block.images, block.psfs, sigma=block.sigma)
    prior = learn_prior([stack], settings=settings)
    seconds = time.process_time() - start
    restore(stack.select(slice(0, 100)), prior, settings=settings)  # not timed: first use
    print(f"S/N {SNR}, prior learnt from {BLOCK} others in {seconds:.1f} CPU s", flush=True)
    return prior


def row_scaling(galaxies, settings, largest):
    print("\nscaling: catalogues drawn, restored and forgotten in blocks of", BLOCK)
    catalogue = Catalogue(galaxies)
    prior = _prior(catalogue, settings)
    for n in [10**k for k in range(2, 9) if 10**k <= largest]:
        meter, _ = Meter(), peak()
        for block in catalogue.blocks(n):
            meter.restore(block, prior, settings)
        print(f"  {n:8d} galaxies: {meter.each:.3f} CPU ms each, {peak():.0f} MB", flush=True)


def row_stream(galaxies, settings, n, *, first):
    print(f"\nstream: {n} galaxies from number {first} on, tenth by tenth")
    catalogue = Catalogue(galaxies)
    prior = _prior(catalogue, settings)
    meter, errors, n_seen, start = Meter(), [], 0, time.monotonic()
    every = max(n // BLOCK // TENTHS, 1) * BLOCK
    peak()
    for block in catalogue.blocks(n, first=first):
        found = meter.restore(block, prior, settings).image.numpy()
        gap = ((found - block.truth) ** 2).sum((1, 2)) / (block.truth**2).sum((1, 2))
        errors.append(float(np.median(gap)))
        n_seen += len(found)
        if n_seen % every == 0 or n_seen == n:
            print(
                f"  {n_seen:8d} galaxies: {meter.each:.3f} CPU ms each, {peak():.0f} MB, "
                f"pixel error {np.mean(errors):.4f}, {time.monotonic() - start:.0f} s",
                flush=True,
            )
            meter, errors = Meter(), []


def row_chunks(galaxies, settings, snr):
    """One prior, the same galaxies cut and ordered otherwise; and priors of either half."""
    images, sigma = galaxies.at_snr(snr)
    stack = galaxy_stack(images, galaxies.psfs, sigma=sigma)
    n = len(stack)
    halves = [learn_prior([stack.select(slice(i, n, 2))], settings=settings) for i in (0, 1)]

    def found(prior, cut, order):
        some = stack.select(order)
        parts = [
            restore(some.select(slice(i, i + cut)), prior, settings=settings)
            for i in range(0, n, cut)
        ]
        back = order.argsort()
        return [
            torch.cat([part.image for part in parts])[back].double(),
            torch.cat([part.profile.flux for part in parts])[back].double(),
        ]

    plain = torch.arange(n)
    mixed = torch.from_numpy(np.random.default_rng(0).permutation(n))
    whole = found(halves[0], n, plain)
    print(f"\nchunks, S/N {snr}, {n} galaxies: relative difference of each from all at once")
    print(f"  {'':22s}{'image: median':>14s}{'99 %':>10s}{'largest':>10s}{'flux: largest':>15s}")
    ways = [(f"blocks of {cut}", halves[0], cut, plain) for cut in CUTS if cut < n]
    ways += [("shuffled, all at once", halves[0], n, mixed)]
    ways += [("shuffled, blocks of 64", halves[0], 64, mixed)]
    ways += [("other half's prior", halves[1], n, plain)]
    for name, *way in ways:
        image, flux = found(*way)
        gap = (image - whole[0]).norm(dim=(1, 2)) / whole[0].norm(dim=(1, 2))
        light = ((flux - whole[1]) / whole[1]).abs()
        tail = torch.quantile(gap, 0.99)
        print(
            f"  {name:22s}{gap.median():14.1e}{tail:10.1e}{gap.max():10.1e}{light.max():15.1e}",
            flush=True,
        )
