"""What tallying a run costs: seconds and memory for a run store of so many exposures.

    python benchmarks/tally.py --exposures 250 2000 --rho

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
from pathlib import Path

import numpy as np
from scale_survey import STARS, make_survey, write_instrument

DRAWN = 20
N_STARS = 100


def fill(folder: Path, n_exposures: int, n_ccds: int) -> Path:
    """A survey store and a run store that says all its metrics are done."""
    from psfscale.arrays import UnitState
    from psfscale.config import RunConfig
    from psfscale.pipeline.stages.context import RunContext
    from psfscale.pipeline.stages.declared import STAGE_NAMES
    from psfscale.pipeline.storage.runstore import create_run_store, prepare_run_store
    from psfscale.pipeline.storage.session import Session
    from psfscale.store.layout import open_root

    write_instrument(folder / "blank.yaml", n_ccds)
    make_survey(folder / "survey.zarr", n_exposures, n_ccds, pixels=False)
    config = RunConfig.model_validate(
        {
            "survey": folder / "survey.zarr",
            "instrument": folder / "blank.yaml",
            "output": folder / "run.zarr",
        }
    )
    context = RunContext.build(config)
    create_run_store(context)
    prepare_run_store(context)
    session = Session(context)
    for exposure in range(min(DRAWN, n_exposures)):
        for stored, values in drawn(session, exposure, n_ccds):
            stored.write((exposure,), values, keep=True)
            for later in range(exposure + DRAWN, n_exposures, DRAWN):
                os.link(stored.path((exposure,)), stored.path((later,)))
    root = open_root(config.output, mode="r+")
    k = STAGE_NAMES.index("metrics")
    root["units/wanted"][:, k] = root["units/fingerprint"][:, k] = 1
    root["ccds/state"][:, :, k] = int(UnitState.DONE)
    return config.output


def drawn(session, exposure: int, n_ccds: int):
    """Stored arrays of one exposure with their values."""
    from psfscale.store.layout import open_root
    from psfscale.store.objects import StoredArray

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
    packed = {}
    for name, values in run.items():
        stored, place = session.of_run(f"stars/{name}")
        if place.path not in packed:
            packed[place.path] = stored, np.zeros(stored.shape[1:], stored.array.dtype)
        packed[place.path][1][:, place.entries.start] = values
    for stored, values in packed.values():
        yield stored, values


def measure(run: Path, *, rho: bool) -> None:
    """Tally a run store in this process and say what it took."""
    from psfscale.pipeline.read.aggregation import aggregate_stores

    start = time.process_time(), time.time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    tables = aggregate_stores([run], run, rho=rho)
    cpu, wall = time.process_time() - start[0], time.time() - start[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    kept = (run / ".psfscale/tally.npz").stat().st_size / 1e6
    n = int(tables["stars/overall"]["n_objects"])
    again = time.process_time()
    aggregate_stores([run], run, rho=rho)
    again = time.process_time() - again
    print(
        f"{n:12,} stars {cpu:8.1f} CPU s {wall:8.1f} s  peak {peak:6.0f} MiB "
        f"(before {before:.0f})  tally {kept:.1f} MB  again {again:.1f} CPU s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exposures", type=int, nargs="+", default=[250, 1000])
    parser.add_argument("--ccds", type=int, default=36)
    parser.add_argument("--rho", action="store_true")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.run is not None:
        measure(asked.run, rho=asked.rho)
        return
    for n in asked.exposures:
        folder = Path(tempfile.mkdtemp(prefix="psfscale-tally-"))
        try:
            run = fill(folder, n, asked.ccds)
            print(f"{n:6} exposures x {asked.ccds} CCDs", end=" ", flush=True)
            more = ["--rho"] if asked.rho else []
            subprocess.run([sys.executable, __file__, "--run", run, *more], check=True)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
