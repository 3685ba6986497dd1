"""A survey and its instrument for the benchmarks of scale: stars alone, of noise."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import psutil
import yaml

HERE = Path(__file__).resolve().parent
STARS, SIDE = 112, 21


def quantity(value: object, unit: str) -> dict[str, object]:
    return {"value": value, "unit": unit, "source": "made up for this benchmark"}


def write_instrument(path: Path, n_ccds: int) -> Path:
    grid = {"kind": "grid", "columns": n_ccds, "rows": 1}
    gaps = {name: quantity(1.0, "mm") for name in ("gap_x", "gap_y")}
    content = {
        "name": "blank",
        "instrument": {
            "telescope": {"aperture": quantity(1.2, "m"), "focal_length": quantity(10.0, "m")},
            "passband": {"minimum": quantity(0.5, "um"), "maximum": quantity(0.9, "um")},
            "detector": {
                "pixel_scale": quantity(0.2, "arcsec"),
                "pixel_size": quantity(12.0, "um"),
                "columns": 2048,
                "rows": 4096,
                "gain": quantity(1.0, "electron / adu"),
                "read_noise": quantity(3.0, "electron"),
            },
            "focal_plane": {"first_ccd": 1, "n_ccds": n_ccds, "layout": {**grid, **gaps}},
            "psf": {
                "fwhm_minimum": quantity(0.1, "arcsec"),
                "fwhm_maximum": quantity(2.0, "arcsec"),
                "upsampling": 2,
            },
        },
        "ingest": {
            "format": "ldac",
            "exposure": {"card": "EXPNUM"},
            "stars": {"columns": {"x": "X_IMAGE", "y": "Y_IMAGE"}},
        },
    }
    path.write_text(yaml.safe_dump(content))
    return path


def make_survey(
    path: Path, n_exposures: int, n_ccds: int, *, pixels: bool, n_galaxies: int = 0
) -> Path:
    """A survey store of 100 stars a CCD; without pixels, and galaxies, only what a plan reads."""
    from psfscale.store.schema import SURVEY_SCHEMA
    from psfscale.store.stores import create_store, open_root

    specs = [s for s in SURVEY_SCHEMA if n_galaxies or s.group != "galaxies"]
    sizes = {
        "exposure": n_exposures,
        "ccd": n_ccds,
        "star": STARS,
        "stamp_y": SIDE,
        "stamp_x": SIDE,
    }
    sizes |= {"reason": 7, "galaxy": -(-n_galaxies // 16) * 16}  # whole chunks
    create_store(path, specs, sizes=sizes, attributes={"kind": "survey"})
    root = open_root(path, mode="r+")
    names = np.array([f"exp-{i:06}" for i in range(n_exposures)], dtype=object)
    root["ccd"][...] = np.arange(1, n_ccds + 1)
    root["exposure"][...] = root["exposures/id"][...] = names
    root["exposures/content"][...] = names
    root["exposures/complete"][...] = 1
    if pixels:
        _fill(root, n_exposures, n_ccds)
    return path


def _fill(root, n_exposures: int, n_ccds: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(1, 1, (n_ccds, STARS, SIDE, SIDE)).astype("f4")
    role = np.zeros((n_ccds, STARS), "u1")
    role[:, :80], role[:, 80:100] = 1, 2
    place = rng.uniform(0, 2000, (2, n_ccds, STARS))
    for i in range(n_exposures):
        root["stars/image"][i] = image
        root["stars/weight"][i] = np.ones_like(image)
        root["stars/role"][i] = role
        root["stars/x"][i], root["stars/y"][i] = place


def config_of(folder: Path, survey: Path, output: Path):
    from psfscale.config import RunConfig

    content = {"survey": survey, "instrument": folder / "blank.yaml", "output": output}
    return RunConfig.model_validate(content)


def blank_run(scratch: Path, n_exposures: int, n_ccds: int):
    write_instrument(scratch / "blank.yaml", n_ccds)
    survey = scratch / f"survey-{n_exposures}.zarr"
    if not survey.exists():
        make_survey(survey, n_exposures, n_ccds, pixels=False)
    return config_of(scratch, survey, scratch / f"run-{n_exposures}.zarr")


def resident() -> float:
    """Resident memory of this process [MB]."""
    return psutil.Process().memory_info().rss / 1e6


def cpu_seconds() -> tuple[float, float]:
    """CPU seconds of this process, and of all that it waited for."""
    own, others = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime, others.ru_utime + others.ru_stime
