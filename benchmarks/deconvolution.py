"""Parity, speed and accuracy of the deconvolution.

    OMP_NUM_THREADS=1 python benchmarks/deconvolution.py --data DIR [--rows parity,speed,...]

``parity``: the 100 galaxies of `sf_deconvolve_example/` by the published program's arithmetic,
against stored answers of a peer (`--peer`, made by any program that follows it: an npz with
``primal`` for lowr and sparse each), 150 iterations, float64.
``speed``: the same run, and the 1000 galaxies of `deconv_A.npz` with the defaults.
``modes``: every mode at each S/N of `deconv_A.npz`, noise made uniform:
``clean + sigma_uniform[S/N]·(images − clean)/sigma``; S/N is the spread of the noiseless stamp over
the noise. Pixel error ‖x − t‖²/‖t‖² of the stamp, ellipticity error of unweighted moments under a
Gaussian window of 5 pixels, medians; ± is the median's standard error from 200 bootstraps, seed 0.
``simulation``: the same for galaxies of ``benchmarks/galaxies.py``, noise given.
``mixed``: the images as they are, every galaxy at its own S/N in one stack, by each mode; beside
each S/N's galaxies as they come out of a stack of that S/N and one noise. ``--fast``: mode learnt
by low frequencies alone.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import torch
from galaxies import simulated

import psfscale
from psfscale.deconvolve.score import gaussian_window, unweighted_ellipticity
from psfscale.deconvolve.stack import galaxy_stack
from psfscale.deconvolve.wiener import wiener

PUBLISHED = {
    1: ("0.0347 / 0.0719", "0.0625 / 0.0763"),
    5: ("0.0096 / 0.0171", "0.0122 / 0.0166"),
    20: ("0.0054 / 0.0048", "0.0028 / 0.0045"),
}
"""The published program's figures: low rank (1000 galaxies), sparse (100 galaxies)."""


def errors(found: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixel and ellipticity error of each galaxy."""
    pixel = ((found - truth) ** 2).sum((1, 2)) / (truth**2).sum((1, 2))
    window = gaussian_window(truth.shape[1:], 5)
    gap = unweighted_ellipticity(found * window) - unweighted_ellipticity(truth * window)
    return pixel, np.hypot(gap[:, 0], gap[:, 1])


def median(values: np.ndarray) -> str:
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(values), (200, len(values)))
    return f"{np.median(values):.4f} ± {np.median(values[draws], axis=1).std():.4f}"


def line(name: str, found: np.ndarray, truth: np.ndarray, tail: str) -> None:
    pixel, shape = errors(found.astype(np.float64), truth)
    print(f"{name:34s} | {median(pixel)} / {median(shape)} | {tail}", flush=True)


def example(data: Path) -> tuple[np.ndarray, np.ndarray]:
    folder = data / "sf_deconvolve_example"
    psfs = np.load(folder / "example_psfs.npy").astype(np.float64)
    return np.load(folder / "example_image_stack.npy"), psfs


def parity(data: Path, peer: Path | None) -> None:
    images, psfs = example(data)
    for mode in ("lowr", "sparse"):
        start = time.process_time()
        found = psfscale.deconvolve(images, psfs, mode=mode, parity=True)
        seconds = time.process_time() - start
        n = [c.n_iterations for c in found.convergence]
        gap = ""
        if peer is not None:
            with np.load(peer / f"peer_{mode}.npz") as file:
                answer = file["primal"]
            distance = np.linalg.norm(found.image - answer) / np.linalg.norm(answer)
            gap = f"relative difference {distance:.1e}, "
        print(f"parity {mode}: {gap}iterations {n}, {seconds:.2f} CPU s", flush=True)


def speed(data: Path) -> None:
    images, psfs = example(data)
    psfscale.deconvolve(images[:4], psfs[:4], mode="lowr", n_iter=2)
    for name, options in (
        ("lowr, parity", {"mode": "lowr", "parity": True}),
        ("lowr", {"mode": "lowr"}),
    ):
        start = time.process_time()
        psfscale.deconvolve(images, psfs, **options)
        print(f"example, {name}: {time.process_time() - start:.2f} CPU s", flush=True)
    with np.load(data / "deconv_A.npz") as file:
        images, psfs = file["images"], file["psfs"]
    for mode in ("lowr", "learnt"):
        start = time.process_time()
        psfscale.deconvolve(images, psfs, mode=mode)
        seconds = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"deconv_A, {mode}: {seconds:.2f} CPU s, peak so far {peak:.0f} MB", flush=True)


def modes(data: Path, levels: list[int], names: list[str], n: int) -> None:
    with np.load(data / "deconv_A.npz") as file:
        held = {k: file[k] for k in ("images", "clean", "sigma", "psfs", "truth")}
        uniform = dict(zip(file["snr_levels"].tolist(), file["sigma_uniform"], strict=True))
    truth, psfs = held["truth"][:n].astype(np.float64), held["psfs"][:n]
    noise = (held["images"] - held["clean"]) / held["sigma"][:, None, None]
    for level in levels:
        images = (held["clean"] + uniform[level] * noise)[:n].astype(np.float32)
        print(f"S/N {level}: published low rank, sparse: {' , '.join(PUBLISHED.get(level, ()))}")
        stack = galaxy_stack(images, psfs)
        scale = stack.sigma[:, None, None]
        plain = wiener(stack.image / scale, psf=stack.psf) * scale
        line(f"{level:3d} wiener", plain.numpy(), truth, "")
        for name in names:
            start = time.process_time()
            found = psfscale.deconvolve(images, psfs, mode=name)
            seconds = time.process_time() - start
            done = found.converged.mean()
            tail = f"converged {done:.2f}, chi² {np.median(found.chi2):.3f}, {seconds:.1f} CPU s"
            line(f"{level:3d} {name}", found.image, truth, tail)


def mixed(data: Path, names: list[str], levels: list[int], options: dict[str, object]) -> None:
    with np.load(data / "deconv_A.npz") as file:
        held = {k: file[k] for k in ("images", "clean", "sigma", "psfs", "truth", "snr")}
        uniform = dict(zip(file["snr_levels"].tolist(), file["sigma_uniform"], strict=True))
    noise = (held["images"] - held["clean"]) / held["sigma"][:, None, None]
    truth = held["truth"].astype(np.float64)
    for name in names:
        chosen = {"mode": name, **(options if name == "learnt" else {})}
        together = psfscale.deconvolve(held["images"], held["psfs"], **chosen).image
        for level in levels:
            group = held["snr"] == level
            images = (held["clean"] + uniform[level] * noise).astype(np.float32)
            alone = psfscale.deconvolve(images, held["psfs"], **chosen).image
            tail = f"n = {group.sum()}"
            line(f"{level:3d} {name}, mixed", together[group], truth[group], tail)
            line(f"{level:3d} {name}, one noise", alone[group], truth[group], tail)


def simulation(seed: int, levels: list[int], names: list[str], n: int) -> None:
    galaxies = simulated(n, seed=seed)
    for level in levels:
        images, sigma = galaxies.at_snr(level)
        stack = galaxy_stack(images, galaxies.psfs, sigma=float(sigma))
        plain = wiener(stack.image / float(sigma), psf=stack.psf) * float(sigma)
        line(f"{level:3d} wiener", plain.numpy(), galaxies.truth, "")
        for name in names:
            start = time.process_time()
            found = psfscale.deconvolve(images, galaxies.psfs, mode=name, sigma=float(sigma))
            seconds = time.process_time() - start
            tail = f"converged {found.converged.mean():.2f}, {seconds:.1f} CPU s"
            line(f"{level:3d} {name}", found.image, galaxies.truth, tail)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data")
    parser.add_argument("--rows", default="parity,speed,modes,mixed")
    parser.add_argument("--peer", type=Path, help="folder of peer_lowr.npz and peer_sparse.npz")
    parser.add_argument("--snr", default="1,5,20", help="of the rows `modes` and `mixed`")
    parser.add_argument("--fast", action="store_true", help="of the rows `mixed`, mode learnt")
    parser.add_argument("--modes", default="learnt,lowr,sparse,all,grad")
    parser.add_argument("--seed", type=int, default=977, help="of the row `simulation`")
    parser.add_argument(
        "--galaxies", type=int, default=1000, help="of the rows `modes`, `simulation`"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = args.rows.split(",")
    if "parity" in rows:
        parity(args.data, args.peer)
    if "speed" in rows:
        speed(args.data)
    if "modes" in rows:
        levels = [int(level) for level in args.snr.split(",")]
        modes(args.data, levels, args.modes.split(","), args.galaxies)
    if "simulation" in rows:
        levels = [int(level) for level in args.snr.split(",")]
        simulation(args.seed, levels, args.modes.split(","), args.galaxies)
    if "mixed" in rows:
        levels = [int(level) for level in args.snr.split(",")]
        options = {"learnt": {"fast": True, "error": False}} if args.fast else {}
        mixed(args.data, args.modes.split(","), levels, options)


if __name__ == "__main__":
    main()
