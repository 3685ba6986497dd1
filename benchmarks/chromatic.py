"""What colour is worth: PSFs at galaxies, fitted and drawn at their spectra or at flat ones.

    python benchmarks/chromatic.py FOLDER [--exposures 2] [--stars 40] [--galaxies 20] [--seed 11]

draws a toy survey with spectra (4 CCDs an exposure, 8 wavelengths, GalSim's optics), ingests it
with and without its spectra, and runs it: WaveDiff over the exposure with spectra, the same with
flat ones, RCA a CCD. PSFs at the galaxies are held against the simulator's, 3 samples a pixel:

error   median over galaxies of ||drawn - true|| / ||true||, %
R2      mean and rms over galaxies of drawn / true - 1, adaptive moments, %
e       rms over galaxies and components of drawn - true, distortion

The spectra of stars (black bodies) and of galaxies (power laws) differ, so that a flat field learns
the stars' mean colour and is drawn for galaxies of another. FOLDER keeps survey and runs: a second
call goes on where the first was stopped.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from astropy.io import fits

from psfscale.config import RunConfig
from psfscale.ingest import ingest
from psfscale.metrics.moments import adaptive_moments
from psfscale.pipeline import open_run, run
from psfscale.simulate import simulate
from psfscale.survey import Survey, load_survey

TOY = Path(__file__).parents[1] / "catalogs" / "toy.yaml"
OVERRIDES = ("simulate.optics.wavelengths=8", "instrument.rendering.pupil_samples=64")
WAVEDIFF = {"name": "wavediff", "settings": {"n_zernikes": 21, "surfaces": False}}
RUNS = {
    "wavediff, spectra": ("survey", WAVEDIFF),
    "wavediff, flat": ("flat", WAVEDIFF),
    "rca a CCD": ("survey", {"name": "rca"}),
}


def flat(survey: Survey) -> Survey:
    """The survey as if its catalogues told no spectra."""
    recipe = survey.ingest
    parts = {
        name: part.model_copy(update={"columns": part.columns.model_copy(update={"sed": None})})
        for name in ("stars", "galaxies")
        if (part := getattr(recipe, name)) is not None
    }
    return survey.model_copy(
        update={"spectra": None, "simulate": None, "ingest": recipe.model_copy(update=parts)}
    )


def prepare(folder: Path, args: argparse.Namespace) -> Survey:
    if not (folder / "sky").exists():
        simulate(
            load_survey(TOY, OVERRIDES),
            folder / "sky",
            exposures=args.exposures,
            stars=args.stars,
            galaxies=args.galaxies,
            seed=args.seed,
        )
    survey = load_survey(folder / "sky" / "survey.yaml")
    images = sorted((folder / "sky" / "images").iterdir())
    for name, seen in (("survey", survey), ("flat", flat(survey))):
        if not (folder / f"{name}.zarr").exists():
            ingest(seen, images, folder / f"{name}.zarr")
    return survey


def go(folder: Path, name: str, store: str, model: dict[str, object], restore: bool) -> RunConfig:
    config = RunConfig.model_validate(
        {
            "survey": folder / f"{store}.zarr",
            "instrument": folder / "sky" / "survey.yaml",
            "output": folder / f"{name.replace(', ', '-').replace(' ', '-')}.zarr",
            "model": model,
            "restore": {"at_galaxies": restore},
            "psf": {"oversampling": 3, "size": 63},
        }
    )
    run(config, serial=True, observers=[])
    return config


def truth(folder: Path, exposure: str, ccd: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, PSFs and fluxes [electron] of the galaxies of a CCD, as drawn."""
    with fits.open(folder / "sky" / "truth" / f"{exposure}.fits") as hdus:
        table = hdus["GALAXIES", ccd].data
        return (
            table["ID"].copy(),
            hdus["PSF_GALAXIES", ccd].data.astype(float),
            table["FLUX"].copy(),
        )


def compare(folder: Path, config: RunConfig, survey: Survey) -> dict[str, float]:
    found = open_run(config.output)
    drawn, true, restored = [], [], []
    for exposure in found.tree["exposure"].values.tolist():
        for ccd in survey.instrument.focal_plane.ccd_ids:
            galaxies = found.galaxies(exposure=exposure, ccd=ccd).load()
            ids, psf, flux = truth(folder, exposure, ccd)
            rows = [ids.tolist().index(i) for i in galaxies["id"].values.tolist()]
            drawn.append(galaxies["psf"].values)
            true.append(psf[rows])
            if config.restore.at_galaxies:
                ratio = galaxies["restored_flux"].values / (
                    flux[rows] * survey.instrument.detector.gain
                )
                restored.append(ratio[galaxies["snr"].values > 30])
    here, there = np.concatenate(drawn).astype(float), np.concatenate(true)
    error = np.linalg.norm(here - there, axis=(1, 2)) / np.linalg.norm(there, axis=(1, 2))
    scale = float(survey.instrument.detector.pixel_scale) / 3
    mine, theirs = (adaptive_moments(p, pixel_scale=scale) for p in (here, there))
    size = mine.R2 / theirs.R2 - 1
    shape = np.concatenate([mine.e1 - theirs.e1, mine.e2 - theirs.e2])
    cost = found.tree["units/cpu_seconds"].sel(stage="fit").sum()
    result = {
        "galaxies": len(error),
        "error %": 100 * np.median(error),
        "R2 mean %": 100 * size.mean(),
        "R2 rms %": 100 * np.sqrt((size**2).mean()),
        "e rms": np.sqrt((shape**2).mean()),
        "fit CPU s": float(cost),
    }
    if restored:
        result["flux restored / true"] = float(np.median(np.concatenate(restored)))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    for name, value in (("exposures", 2), ("stars", 40), ("galaxies", 20), ("seed", 11)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--only", choices=("prepare", *RUNS))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    survey = prepare(args.folder, args)
    for name, (store, model) in RUNS.items():
        if args.only in (None, name):
            start = time.process_time()
            config = go(args.folder, name, store, model, restore=name == "wavediff, spectra")
            values = compare(args.folder, config, survey)
            line = ", ".join(f"{key} {value:.4g}" for key, value in values.items())
            print(f"{name}: {line}; {time.process_time() - start:.0f} CPU s", flush=True)


if __name__ == "__main__":
    main()
