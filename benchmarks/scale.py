"""What the pipeline itself costs, and how far it scales: each figure measured or simulated.

OMP_NUM_THREADS=1 python benchmarks/scale.py overhead --scratch DIR
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import yaml

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

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


def make_survey(path: Path, n_exposures: int, n_ccds: int, *, pixels: bool) -> Path:
    """A survey store of stars alone, 100 a CCD; without pixels only what a plan reads."""
    from psfscale.store.layout import create_store, open_root
    from psfscale.store.schema import SURVEY_SCHEMA

    specs = [s for s in SURVEY_SCHEMA if s.group != "galaxies"]
    sizes = {"exposure": n_exposures, "ccd": n_ccds, "star": STARS, "y": SIDE, "x": SIDE}
    create_store(path, specs, sizes={**sizes, "reason": 7}, attributes={"kind": "survey"})
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


def cpu_seconds() -> tuple[float, float]:
    """CPU seconds of this process, and of all that it waited for."""
    own, others = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime, others.ru_utime + others.ru_stime


def stored_objects(run: Path) -> int:
    """Files of models and metrics, and of the books kept on them; descriptions left out."""
    return sum(len(names) - ("zarr.json" in names) for _, _, names in os.walk(run))


def overhead(scratch: Path, *, n_ccds: int, serial: bool, workers: int) -> None:
    """CPU of a run with blank stages, by the slope between two numbers of exposures."""
    import scale_blank

    from psfscale.pipeline import run, status
    from psfscale.pipeline.profiles import LocalProfile

    scale_blank.install()
    site = scratch / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text("import scale_blank; scale_blank.install()\n")
    path = os.pathsep.join([str(site), str(HERE), os.environ.get("PYTHONPATH", "")])
    os.environ["PYTHONPATH"] = path
    write_instrument(scratch / "blank.yaml", n_ccds)
    spent, sizes = [], (8, 40) if n_ccds > 8 else (20, 100)
    for n in sizes:
        survey = make_survey(scratch / f"survey-{n}.zarr", n, n_ccds, pixels=True)
        output = scratch / f"run-{n}.zarr"
        before, start = cpu_seconds(), time.time()
        cluster = None if serial else LocalProfile(workers=workers)
        summary = run(
            config_of(scratch, survey, output), cluster=cluster, serial=serial, observers=[]
        )
        after = cpu_seconds()
        stage = sum(cost.stage_seconds for cost in status(output).costs.values())
        spent.append((after[0] - before[0], after[1] - before[1], stage, time.time() - start))
        print(f"{n} exposures: {summary}; objects {stored_objects(output) / n:.2f} an exposure")
        shutil.rmtree(survey)
        if n == sizes[0]:
            shutil.rmtree(output)
    rows = (sizes[1] - sizes[0]) * n_ccds
    driver, children, stage, wall = (1e3 * (b - a) / rows for a, b in zip(*spent, strict=True))
    print(
        f"measured: {'serial' if serial else f'{workers} workers'}, {n_ccds} CCDs an exposure: "
        f"{driver + children - stage:.2f} ms CPU a CCD, all stages (driver {driver:.2f}, workers "
        f"{children:.2f}, of it the blank stages' own {stage:.2f}), wall {wall:.2f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["overhead"])
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--ccds", type=int, default=36)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--serial", action="store_true")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.scratch, ignore_errors=True)
    arguments.scratch.mkdir(parents=True)
    overhead(
        arguments.scratch,
        n_ccds=arguments.ccds,
        serial=arguments.serial,
        workers=arguments.workers,
    )


if __name__ == "__main__":
    main()
