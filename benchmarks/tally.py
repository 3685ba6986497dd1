"""What tallying a run costs: seconds and memory for a run store of so many exposures.

    python benchmarks/tally.py --exposures 250 2000 --rho
    python benchmarks/tally.py --exposures 250 2000 --galaxies 200

The stores are synthetic: twenty exposures with plausible metrics, drawn once, and every further one
a hard link to one of them, so that reading costs what it costs from the page cache. Each count is
tallied in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path

import numpy as np
from scale_survey import STARS, make_survey, write_instrument

DRAWN = 20
N_STARS = 100


def fill(folder: Path, n_exposures: int, n_ccds: int, *, n_galaxies: int) -> Path:
    """A survey store and a run store that says all its metrics are done."""
    from psfscale.arrays import UnitState
    from psfscale.config import RunConfig
    from psfscale.pipeline.runs.context import build_context
    from psfscale.pipeline.runs.store import create_run_store, prepare_run_store
    from psfscale.pipeline.stages.registry import STAGE_NAMES
    from psfscale.pipeline.units.session import Session
    from psfscale.store.stores import open_root

    write_instrument(folder / "blank.yaml", n_ccds)
    survey = folder / "survey.zarr"
    make_survey(survey, n_exposures, n_ccds, pixels=False, n_galaxies=n_galaxies)
    config = RunConfig.model_validate(
        {
            "survey": survey,
            "instrument": folder / "blank.yaml",
            "output": folder / "run.zarr",
            "psf": {"at_galaxies": False},
            "restore": {"at_galaxies": n_galaxies > 0},
        }
    )
    context = build_context(config)
    create_run_store(context)
    prepare_run_store(context)
    session = Session(context)
    for exposure in range(min(DRAWN, n_exposures)):
        galaxies = drawn_galaxies(session, exposure, n_ccds, n_galaxies) if n_galaxies else ()
        for stored, values in chain(drawn(session, exposure, n_ccds), galaxies):
            stored.write((exposure,), values, keep=True)
            for later in range(exposure + DRAWN, n_exposures, DRAWN):
                os.link(stored.path((exposure,)), stored.path((later,)))
    root = open_root(config.output, mode="r+")
    for name in ("metrics", *(("restore",) if n_galaxies else ())):
        k = STAGE_NAMES.index(name)
        root["units/wanted"][:, k] = root["units/fingerprint"][:, k] = 1
        root["ccds/state"][:, :, k] = int(UnitState.DONE)
    return config.output


def drawn(session, exposure: int, n_ccds: int):
    """Stored arrays of one exposure with their values."""
    from psfscale.store.shards import StoredArray
    from psfscale.store.stores import open_root

    rng = np.random.default_rng(exposure)
    shape = (n_ccds, STARS)
    role = np.zeros(shape, "u1")
    role[:, : N_STARS * 4 // 5], role[:, N_STARS * 4 // 5 : N_STARS] = 1, 2
    x, y = rng.uniform(0, 2047, shape), rng.uniform(0, 4095, shape)
    ccd = np.arange(n_ccds)[:, None]
    survey = {
        "role": role,
        "x": x,
        "y": y,
        "field_x": (ccd - (n_ccds - 1) / 2) * 25.6 + (x - 1023.5) * 0.012,
        "field_y": (y - 2047.5) * 0.012,
        "ra": 10 + 0.12 * (ccd % 6) + x * 5.5e-5,
        "dec": 0.24 * (ccd // 6) + y * 5.5e-5,
    }
    given = open_root(session.context.config.survey, mode="r+")
    for name, values in survey.items():
        stored = StoredArray(given[f"stars/{name}"])
        yield stored, values.astype(stored.array.dtype)
    model = {"e1": rng.normal(0, 0.03, shape), "e2": rng.normal(0, 0.03, shape)}
    model["R2"] = rng.uniform(0.3, 0.4, shape)
    run = {"flux": 10 ** rng.uniform(3, 6, shape), "chi2": rng.normal(1, 0.1, shape)}
    run["rel_rmse"] = rng.uniform(0.01, 0.3, shape)
    for name, values in model.items():
        scale = values if name == "R2" else 1.0
        run[f"{name}_model"] = values
        run[f"{name}_star"] = values + scale * rng.normal(1e-4, 0.02, shape)
    run |= {"flags": np.zeros(shape), "fit_flags": np.zeros(shape)}
    yield from packed(session, "stars", run)


def drawn_galaxies(session, exposure: int, n_ccds: int, n_galaxies: int):
    """The same of galaxies, restored."""
    from psfscale.store.shards import StoredArray
    from psfscale.store.stores import open_root

    rng = np.random.default_rng((1, exposure))
    given = open_root(session.context.config.survey, mode="r+")
    shape = (n_ccds, given["galaxies/x"].shape[2])
    x, y = rng.uniform(0, 2047, shape), rng.uniform(0, 4095, shape)
    ccd = np.arange(n_ccds)[:, None]
    flux = 10 ** rng.uniform(2.5, 5, shape)
    survey = {
        "role": np.broadcast_to(np.arange(shape[1]) < n_galaxies, shape),
        "x": x,
        "y": y,
        "field_x": (ccd - (n_ccds - 1) / 2) * 25.6 + (x - 1023.5) * 0.012,
        "field_y": (y - 2047.5) * 0.012,
        "flux": flux,
    }
    for name, values in survey.items():
        stored = StoredArray(given[f"galaxies/{name}"])
        yield stored, values.astype(stored.array.dtype)
    run = {
        "restored_flux": flux * rng.normal(1, 0.05, shape),
        "restored_chi2": rng.normal(1, 0.1, shape),
        "restored_e1": rng.normal(0, 0.3, shape),
        "restored_e2": rng.normal(0, 0.3, shape),
        "restored_R2": rng.uniform(0.05, 1, shape),
        "restored_flags": np.zeros(shape),
    }
    yield from packed(session, "galaxies", run)


def packed(session, group: str, columns):
    """The stored arrays of some columns, several of them in one."""
    found = {}
    for name, values in columns.items():
        stored, place = session.of_run(f"{group}/{name}")
        if place is None:
            yield stored, values.astype(stored.array.dtype)
            continue
        if place.path not in found:
            found[place.path] = stored, np.zeros(stored.shape[1:], stored.array.dtype)
        found[place.path][1][:, place.entries.start] = values
    yield from found.values()


def measure(run: Path, *, rho: bool, workers: int) -> None:
    """Tally a run store, in this process or by workers, and say what it took here."""
    from psfscale.pipeline import metrics_of_stars
    from psfscale.pipeline.results.tables import aggregate_stores
    from psfscale.pipeline.workers.profiles import LocalProfile

    cluster = LocalProfile(workers=workers) if workers else None
    start = time.process_time(), time.time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    tables = aggregate_stores([run], run, rho=rho, cluster=cluster)
    cpu, wall = time.process_time() - start[0], time.time() - start[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    parts = list((run / ".psfscale/tallies").iterdir())
    kept = sum(part.stat().st_size for part in parts) / len(parts) / 1e6
    n = int(tables["stars/overall"]["n_objects"])
    galaxies = tables.get("galaxies/overall")
    told = "" if galaxies is None else f"{int(galaxies['n_objects']):12,} galaxies"
    again = time.process_time()
    aggregate_stores([run], run, rho=rho)
    again = time.process_time() - again
    rows = time.process_time()
    metrics_of_stars(run, run.with_name("stars.parquet"))
    rows = time.process_time() - rows
    size = run.with_name("stars.parquet").stat().st_size
    print(
        f"{n:12,} stars{told} {cpu:8.1f} CPU s {wall:8.1f} s  peak {peak:6.0f} MiB "
        f"(before {before:.0f})  a tally {kept:.1f} MB  again {again:.1f} CPU s  "
        f"stars to Parquet {1e6 * rows / n:.2f} µs and {size / n:.0f} B each"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exposures", type=int, nargs="+", default=[250, 1000])
    parser.add_argument("--ccds", type=int, default=36)
    parser.add_argument("--rho", action="store_true")
    parser.add_argument("--galaxies", type=int, default=0, help="of a CCD, restored")
    parser.add_argument("--workers", type=int, default=0, help="of a local cluster; 0: none")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.run is not None:
        measure(asked.run, rho=asked.rho, workers=asked.workers)
        return
    for n in asked.exposures:
        folder = Path(tempfile.mkdtemp(prefix="psfscale-tally-"))
        try:
            run = fill(folder, n, asked.ccds, n_galaxies=asked.galaxies)
            print(f"{n:6} exposures x {asked.ccds} CCDs", end=" ", flush=True)
            more = ["--workers", str(asked.workers), *(["--rho"] if asked.rho else [])]
            subprocess.run([sys.executable, __file__, "--run", run, *more], check=True)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
