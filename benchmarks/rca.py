"""Accuracy and speed of RCA on a simulated field and on real stars.

    python benchmarks/rca.py --data DIR [--row field|hst|des|exposure ...]

DIR holds ``rca_field_A.npz``, ``hst_acs/hst_acs_jb5d20b7_chip.npz`` and
``des_decam/des_decam_00241238_01.npz``. Every row is fitted with the default settings; only
the upsampling and the instrument's band limit are given. Times are CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings
from pathlib import Path

import galsim
import numpy as np
import torch

from psfscale.arrays import FieldPoints, PixelGrid, StarBatch
from psfscale.models.rca import RCA

ARCSEC = np.pi / 180 / 3600


def band_limit(pixel_arcsec, aperture_m, shortest_um):
    """Cut-off of the optics [cycle/CCD pixel]."""
    return pixel_arcsec * ARCSEC * aperture_m / (shortest_um * 1e-6)


def timed_fit(stars, **options):
    model = RCA(**options)
    start = time.process_time()
    report = model.fit(stars)
    return model, report, time.process_time() - start


def aligned_error(model, truth):
    """Relative L2 distance after the best sub-pixel shift and amplitude."""
    ky, kx = np.fft.fftfreq(truth.shape[0])[:, None], np.fft.rfftfreq(truth.shape[1])[None, :]
    spectrum = np.fft.rfft2(model)
    for _ in range(6):
        slopes = [spectrum, -2j * np.pi * ky * spectrum, -2j * np.pi * kx * spectrum]
        design = np.stack([np.fft.irfft2(s, truth.shape).ravel() for s in slopes], axis=1)
        a, dy, dx = np.linalg.lstsq(design, truth.ravel(), rcond=None)[0]
        spectrum = spectrum * np.exp(-2j * np.pi * (ky * dy + kx * dx) / a)
    best = np.fft.irfft2(spectrum, truth.shape)
    amplitude = (best * truth).sum() / (best**2).sum()
    return np.linalg.norm(amplitude * best - truth) / np.linalg.norm(truth)


def shape_of(psf):
    """(e1, e2, R²) by adaptive moments, NaN where they fail."""
    moments = galsim.hsm.FindAdaptiveMom(
        galsim.Image(np.ascontiguousarray(psf, dtype=float)), strict=False
    )
    if moments.error_message:
        return np.nan, np.nan, np.nan
    shape = moments.observed_shape
    return shape.e1, shape.e2, 2 * moments.moments_sigma**2


def field_scores(psf, truth):
    shapes = np.array([shape_of(p) for p in psf])
    expected = np.array([shape_of(p) for p in truth])
    e1, e2, _ = np.sqrt(np.nanmean((shapes - expected) ** 2, axis=0))
    size = np.sqrt(np.nanmean((shapes[:, 2] / expected[:, 2] - 1) ** 2))
    error = np.mean([aligned_error(p, t) for p, t in zip(psf, truth, strict=True)])
    return error, e1, e2, size


def row_field(data):
    z = np.load(data / "rca_field_A.npz", allow_pickle=False)
    stars = StarBatch(
        image=z["obs"], weight=np.ones_like(z["obs"]), x=z["pos"][:, 0], y=z["pos"][:, 1]
    )
    at = FieldPoints(x=z["test_pos"][:, 0], y=z["test_pos"][:, 1])
    grid = PixelGrid(shape=z["test_truth"].shape[1:], oversampling=3)
    limits = {"with band limit": band_limit(0.1, 1.2, 0.8), "without": None}
    print(f"\nrca_field_A: 3x, {len(stars)} stars, {len(at)} test positions, seed 11")
    print(f"{'model':28s} {'aligned':>8s} {'e1':>7s} {'e2':>7s} {'R2':>7s} {'CPU s':>6s}")
    mean = np.broadcast_to(z["truth"].mean(0), z["test_truth"].shape)
    rows = [("mean true PSF", mean, 0.0)]
    for name, limit in limits.items():
        model, _, seconds = timed_fit(stars, upsampling=3, band_limit=limit)
        rows.append((f"RCA {name}", model.predict(at, grid).numpy(), seconds))
    for name, psf, seconds in rows:
        error, e1, e2, size = field_scores(psf, z["test_truth"])
        print(f"{name:28s} {error:8.4f} {e1:7.4f} {e2:7.4f} {size:7.4f} {seconds:6.1f}")


def fitted_to_star(model, at, image, weight, *, n_steps=8):
    """Model stamps with flux and centre fitted to each star; shift by cubic interpolation."""
    fine = 4
    ny, nx = image.shape[1:]
    grid = PixelGrid(shape=((ny + 8) * fine, (nx + 8) * fine), oversampling=fine)
    psf = np.asarray(model(at, grid), dtype=float)
    stamps = [star_fit(p, i, w, fine, n_steps) for p, i, w in zip(psf, image, weight, strict=True)]
    return np.stack(stamps)


def star_fit(psf, image, weight, fine, n_steps):
    ny, nx = image.shape
    image = np.where(weight > 0, image, 0.0)
    ky, kx = np.fft.fftfreq(psf.shape[0])[:, None], np.fft.rfftfreq(psf.shape[1])[None, :]
    spectrum = np.fft.rfft2(psf)
    rows = (np.arange(ny) - ny // 2) * fine + psf.shape[0] // 2
    columns = (np.arange(nx) - nx // 2) * fine + psf.shape[1] // 2

    def sampled(s):
        return np.fft.irfft2(s, psf.shape)[np.ix_(rows, columns)]

    root = np.sqrt(weight).ravel()
    best = np.inf, None
    for start in ((0.0, 0.0), *((dy, dx) for dy in (-0.5, 0.5) for dx in (-0.5, 0.5))):
        dy, dx = start
        for _ in range(n_steps):
            s = spectrum * np.exp(-2j * np.pi * fine * (ky * dy + kx * dx))
            slopes = [s, -2j * np.pi * fine * ky * s, -2j * np.pi * fine * kx * s]
            design = np.stack([sampled(t).ravel() for t in slopes], axis=1)
            flux, a, b = np.linalg.lstsq(root[:, None] * design, root * image.ravel(), rcond=None)[
                0
            ]
            if flux <= 0:
                break
            dy, dx = dy + np.clip(a / flux, -0.3, 0.3), dx + np.clip(b / flux, -0.3, 0.3)
        s = spectrum * np.exp(-2j * np.pi * fine * (ky * dy + kx * dx))
        stamp = sampled(s)
        flux = (weight * stamp * image).sum() / (weight * stamp**2).sum()
        cost = (weight * (image - flux * stamp) ** 2).sum()
        if cost < best[0]:
            best = cost, flux * stamp
    return best[1]


def star_scores(stamps, image, weight):
    """NMSE, relative RMSE and reduced chi over unmasked pixels of held-out stars."""
    good = weight > 0
    image, residual = np.where(good, image, 0.0), np.where(good, image - stamps, 0.0)
    nmse = np.mean((residual**2).sum((1, 2)) / (image**2).sum((1, 2)))
    relative = np.sqrt((residual**2).sum() / (image**2).sum())
    chi = np.sqrt((weight * residual**2).sum() / good.sum())
    return nmse, relative, chi


def mean_star(stars):
    """A model of one component: the mean star of the CCD."""
    model, _, seconds = timed_fit(stars, upsampling=2, degree=0, n_components=1)
    return model.predict, seconds


def star_table(title, held_out, models):
    print(f"\n{title}")
    print(f"{'model':28s} {'NMSE':>8s} {'rel RMSE':>8s} {'chi':>6s} {'CPU s':>6s}")
    for name, (predict, seconds) in models.items():
        stamps = fitted_to_star(predict, held_out.points, held_out.image, held_out.weight)
        nmse, relative, chi = star_scores(stamps, held_out.image, held_out.weight)
        print(f"{name:28s} {nmse:8.4f} {relative:8.4f} {chi:6.2f} {seconds:6.1f}")


def row_hst(data):
    z = np.load(data / "hst_acs" / "hst_acs_jb5d20b7_chip.npz", allow_pickle=False)
    everything = StarBatch(image=z["stamps"], weight=z["weights"], x=z["x"], y=z["y"])
    generator = np.random.RandomState(1331)
    generator.choice(len(everything), 5, replace=False)
    held = generator.choice(len(everything), 23, replace=False)
    train = np.setdiff1d(np.arange(len(everything)), held)
    stars = everything.select(train)
    models = {"mean star": mean_star(stars)}
    for upsampling in (1, 2):
        model, report, seconds = timed_fit(
            stars, upsampling=upsampling, band_limit=band_limit(0.05, 2.4, 0.5)
        )
        name = f"RCA {upsampling}x, {int((~report.used).sum())} clipped"
        models[name] = model.predict, seconds
    star_table(
        "HST/ACS, notebook split (seed 1331): 300 stars, 23 held out",
        everything.select(held),
        models,
    )


def row_des(data):
    z = np.load(data / "des_decam" / "des_decam_00241238_01.npz", allow_pickle=False)
    everything = StarBatch(image=z["stamps"], weight=z["weights"], x=z["x"] - 1.0, y=z["y"] - 1.0)
    order = np.random.default_rng(20).permutation(len(everything))
    held, train = order[: len(order) // 5], order[len(order) // 5 :]
    stars = everything.select(train)
    models = {"mean star": mean_star(stars)}
    for upsampling in (1, 2):
        model, report, seconds = timed_fit(
            stars, upsampling=upsampling, band_limit=band_limit(0.263, 4.0, 0.56)
        )
        name = f"RCA {upsampling}x, {int((~report.used).sum())} clipped"
        models[name] = model.predict, seconds
    star_table(
        f"DES, 20 % reserved (seed 20): {len(stars)} stars, {len(held)} held out",
        everything.select(held),
        models,
    )


def row_exposure(data):
    z = np.load(data / "rca_field_A.npz", allow_pickle=False)
    seconds, n_ccds = [], 36
    cut = slice(5, 37)
    for ccd in range(n_ccds):
        chosen = np.random.default_rng(ccd).choice(len(z["obs"]), 150, replace=False)
        image = z["obs"][chosen, cut, cut]
        stars = StarBatch(
            image=image, weight=np.ones_like(image), x=z["pos"][chosen, 0], y=z["pos"][chosen, 1]
        )
        seconds.append(timed_fit(stars, upsampling=3, band_limit=band_limit(0.1, 1.2, 0.8))[2])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\nexposure: {n_ccds} CCDs x 150 stars of 32x32, 3x (seeds 0-{n_ccds - 1})")
    print(f"CPU s a CCD: mean {np.mean(seconds):.2f}, worst {np.max(seconds):.2f}")
    print(f"peak memory of the process, libraries included: {peak:.0f} MB")


ROWS = {"field": row_field, "hst": row_hst, "des": row_des, "exposure": row_exposure}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data files")
    parser.add_argument("--row", action="append", choices=ROWS, help="rows to run; all if unset")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for row in options.row or ROWS:
        ROWS[row](options.data)


if __name__ == "__main__":
    main()
