"""Accuracy and speed of RCA on simulated fields and on real stars, PSFEx and Piff beside it.

    python benchmarks/rca.py --data DIR [--row field|four|hst|des|exposure ...] [--splits N]

DIR holds ``rca_field_A.npz``, ``hst_acs/hst_acs_jb5d20b7_chip.npz`` and
``des_decam/des_decam_00241238_01.npz``; the row ``four`` needs none of them. RCA is fitted with
its default settings; only the upsampling and the instrument's band limit are given. The degree
of PSFEx and Piff is chosen by cross-validation on the training stars of a row's first split.
Times are CPU seconds of one thread, without that choice.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fields import four_ccds
from peers import Fitted, Piff, PSFEx, cross_validated
from scoring import field_scores, fitted_to_star, star_scores

from psfscale.arrays import FieldPoints, PixelGrid, StarBatch
from psfscale.errors import FitError
from psfscale.models.rca.model import RCA

ARCSEC = np.pi / 180 / 3600

DEGREES = (1, 2, 3)
"""Degrees in position that PSFEx and Piff choose from."""


def band_limit(pixel_arcsec, aperture_m, shortest_um):
    """Cut-off of the optics [cycle/CCD pixel]."""
    return pixel_arcsec * ARCSEC * aperture_m / (shortest_um * 1e-6)


@dataclass(frozen=True, kw_only=True)
class Ours:
    """RCA as a row of a table."""

    label: str
    options: dict

    def fit(self, stars):
        model = RCA(**self.options)
        start = time.process_time()
        model.fit(stars)
        return Fitted(predict=model.predict, seconds=time.process_time() - start)


MEAN_STAR = Ours(label="mean star", options={"upsampling": 2, "degree": 0, "n_components": 1})


def peers(stars, *, step, gain=0.0):
    """PSFEx and Piff, where installed, at the degree that the stars themselves choose."""
    families = [
        [PSFEx(degree=degree, sampling=step, gain=gain) for degree in DEGREES],
        [Piff(degree=degree, scale=max(step, 0.5)) for degree in DEGREES[:2]],
    ]
    chosen = []
    for family in families:
        if family[0].installed():
            chosen.append(cross_validated(family, stars))
        else:
            print(f"{family[0].name} is not installed: no row")
    return chosen


# Against the truth ------------------------------------------------------------------------


def field_table(models, ccds):
    """Scores over CCDs of (stars, test positions, truth), and each CCD's aligned error."""
    print(f"{'model':32s} {'aligned':>8s} {'e1':>7s} {'e2':>7s} {'R2':>7s} {'CPU s':>6s}  a CCD")
    for model in models:
        scores, seconds = [], []
        for stars, at, truth in ccds:
            grid = PixelGrid(shape=truth.shape[1:], oversampling=3)
            try:
                fitted = model.fit(stars)
                scores.append(field_scores(np.asarray(fitted.predict(at, grid)), truth))
                seconds.append(fitted.seconds)
            except FitError as error:
                print(f"{model.label:32s} {error}")
        if scores:
            error, *shapes = np.mean(scores, axis=0)
            line = " ".join(f"{s:7.4f}" for s in shapes)
            single = " ".join(f"{s[0]:.3f}" for s in scores) if len(scores) > 1 else ""
            print(
                f"{model.label:32s} {error:8.4f} {line} {np.mean(seconds):6.1f}  {single}",
                flush=True,
            )


@dataclass(frozen=True, kw_only=True)
class MeanTruth:
    """The mean true PSF everywhere: what a model must beat to be of use."""

    truth: np.ndarray
    label = "mean true PSF"

    def fit(self, stars):  # noqa: ARG002
        def predict(at, grid):  # noqa: ARG001
            return np.broadcast_to(self.truth, (len(at), *self.truth.shape))

        return Fitted(predict=predict, seconds=0.0)


def row_field(data, n_splits):  # noqa: ARG001
    z = np.load(data / "rca_field_A.npz", allow_pickle=False)
    stars = StarBatch(
        image=z["obs"], weight=np.ones_like(z["obs"]), x=z["pos"][:, 0], y=z["pos"][:, 1]
    )
    at = FieldPoints(x=z["test_pos"][:, 0], y=z["test_pos"][:, 1])
    limit = band_limit(0.1, 1.2, 0.8)
    print(f"\nrca_field_A: 3x, {len(stars)} stars, {len(at)} test positions, seed 11")
    models = [
        MeanTruth(truth=z["truth"].mean(0)),
        Ours(label="RCA with band limit", options={"upsampling": 3, "band_limit": limit}),
        Ours(label="RCA without", options={"upsampling": 3}),
        *peers(stars, step=1 / 3),
    ]
    field_table(models, [(stars, at, z["test_truth"])])


def row_four(data, n_splits):  # noqa: ARG001
    seed = 2601
    ccds = four_ccds(seed=seed)
    n = len(ccds[0].stars), len(ccds[0].at)
    print(f"\nfour CCDs: 3x, {n[0]} stars 32x32 and {n[1]} test positions each, seed {seed}")
    limit = band_limit(0.1, 1.2, 0.75)
    truth = np.mean([ccd.truth.mean(0) for ccd in ccds], axis=0)
    models = [
        MeanTruth(truth=truth),
        Ours(label="RCA with band limit", options={"upsampling": 3, "band_limit": limit}),
        Ours(label="RCA without", options={"upsampling": 3}),
        *peers(ccds[0].stars, step=1 / 3),
    ]
    field_table(models, [(ccd.stars, ccd.at, ccd.truth) for ccd in ccds])


# Against held-out stars -------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Split:
    """Training and held-out stars of one data set."""

    train: StarBatch
    held: StarBatch


def random_split(everything, n_held, seed):
    order = np.random.default_rng(seed).permutation(len(everything))
    return Split(train=everything.select(order[n_held:]), held=everything.select(order[:n_held]))


def scored(model, split):
    """Scores of the held-out stars and CPU seconds, None where the fit fails."""
    try:
        fitted = model.fit(split.train)
    except FitError as error:
        print(f"{model.label:32s} {error}")
        return None
    held = split.held
    stamps = fitted_to_star(fitted.predict, held.points, held.image, held.weight)
    return star_scores(stamps, held.image, held.weight), fitted.seconds


def star_table(models, splits, *, reference):
    """Means over splits; the difference to the reference model is paired star by star."""
    rows = {model.label: [scored(model, split) for split in splits] for model in models}
    ours = rows[reference]
    print(
        f"{'model':32s} {'NMSE':>8s} {'- ' + reference:>18s} {'rel RMSE':>8s} {'chi':>5s} "
        f"{'sky chi':>7s} {'CPU s':>6s}"
    )
    for label, row in rows.items():
        pairs = [(a, b[0]) for a, b in zip(row, ours, strict=True) if a is not None]
        if not pairs:
            continue
        scores = [a[0] for a, _ in pairs]
        apart = np.array([a[0].nmse - b.nmse for a, b in pairs])
        error = apart.std(ddof=1) / np.sqrt(len(apart)) if len(apart) > 1 else np.nan
        values = ([getattr(s, k) for s in scores] for k in ("nmse", "relative", "chi", "sky_chi"))
        nmse, relative, chi, sky = (np.mean(v) for v in values)
        seconds = np.mean([a[1] for a, _ in pairs])
        print(
            f"{label:32s} {nmse:8.4f} {apart.mean():+9.4f} ± {error:6.4f} {relative:8.4f} "
            f"{chi:5.2f} {sky:7.2f} {seconds:6.1f}"
        )


def upsampled(limit):
    options = {"band_limit": limit}
    return [Ours(label=f"RCA {d}x", options={"upsampling": d, **options}) for d in (1, 2)]


def row_hst(data, n_splits):
    z = np.load(data / "hst_acs" / "hst_acs_jb5d20b7_chip.npz", allow_pickle=False)
    everything = StarBatch(image=z["stamps"], weight=z["weights"], x=z["x"], y=z["y"])
    generator = np.random.RandomState(1331)
    generator.choice(len(everything), 5, replace=False)
    held = generator.choice(len(everything), 23, replace=False)
    train = np.setdiff1d(np.arange(len(everything)), held)
    notebook = Split(train=everything.select(train), held=everything.select(held))
    models = [MEAN_STAR, *upsampled(band_limit(0.05, 2.4, 0.5))]
    models += peers(notebook.train, step=0.5)
    print("\nHST/ACS, notebook split (seed 1331): 300 stars, 23 held out")
    star_table(models, [notebook], reference="RCA 2x")
    if n_splits:
        splits = [random_split(everything, 65, seed) for seed in range(n_splits)]
        print(f"\nHST/ACS, {n_splits} splits (seeds 0-{n_splits - 1}): 258 stars, 65 held out")
        star_table(models, splits, reference="RCA 2x")


def row_des(data, n_splits):
    z = np.load(data / "des_decam" / "des_decam_00241238_01.npz", allow_pickle=False)
    everything = StarBatch(image=z["stamps"], weight=z["weights"], x=z["x"] - 1.0, y=z["y"] - 1.0)
    first = random_split(everything, 23, 20)
    models = [MEAN_STAR, *upsampled(band_limit(0.263, 4.0, 0.56))]
    models += peers(first.train, step=1.0, gain=float(z["gain"]))
    print("\nDES, 20 % reserved (seed 20): 94 stars, 23 held out")
    star_table(models, [first], reference="RCA 2x")
    if n_splits:
        splits = [random_split(everything, 23, seed) for seed in range(n_splits)]
        print(f"\nDES, {n_splits} splits (seeds 0-{n_splits - 1}): 94 stars, 23 held out")
        star_table(models, splits, reference="RCA 2x")


# Speed ------------------------------------------------------------------------------------


def row_exposure(data, n_splits):  # noqa: ARG001
    """In a process of its own: memory counts."""
    script = Path(__file__).with_name("exposure.py")
    subprocess.run([sys.executable, str(script), "--data", str(data)], check=True)


ROWS = {
    "field": row_field,
    "four": row_four,
    "hst": row_hst,
    "des": row_des,
    "exposure": row_exposure,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data files")
    parser.add_argument("--row", action="append", choices=ROWS, help="rows to run; all if unset")
    parser.add_argument("--splits", type=int, default=4, help="random splits of the real stars")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for row in options.row or ROWS:
        ROWS[row](options.data, options.splits)


if __name__ == "__main__":
    main()
