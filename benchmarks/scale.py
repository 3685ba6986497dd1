"""What the pipeline itself costs, and how far it scales: each figure measured or simulated.

OMP_NUM_THREADS=1 python benchmarks/scale.py overhead --scratch DIR
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import scale_drive
import scale_share
import scale_simulated
from scale_survey import (
    HERE,
    blank_run,
    config_of,
    cpu_seconds,
    make_survey,
    resident,
    write_instrument,
)

from psfscale.pipeline.units.meter import peak_memory


def stored_objects(run: Path) -> int:
    """Files of models and metrics, and of the books kept on them; descriptions left out."""
    return sum(len(names) - ("zarr.json" in names) for _, _, names in os.walk(run))


def overhead(scratch: Path, *, n_ccds: int, serial: bool, workers: int) -> None:
    """CPU of a run with blank stages, by the slope between two numbers of exposures."""
    import scale_blank

    from psfscale.pipeline import run, status
    from psfscale.pipeline.workers.profiles import LocalProfile

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


def plan(scratch: Path, *, n_exposures: int, n_ccds: int) -> None:
    """Planning a survey, opening its run store, and resuming when 99 % of it is done."""
    from psfscale.pipeline import open_run, plan_run
    from psfscale.pipeline.runs.context import build_context
    from psfscale.pipeline.runs.store import create_run_store, prepare_run_store

    config = blank_run(scratch, n_exposures, n_ccds)
    before, start = resident(), time.time()
    planned = plan_run(config)
    print(
        f"measured: plan of {n_exposures} exposures x {n_ccds} CCDs, {planned.n_todo} units: "
        f"{time.time() - start:.1f} s, {resident() - before:.0f} MB more, {resident():.0f} in all"
    )
    context = build_context(config)
    create_run_store(context)
    prepare_run_store(context)
    n_files = fill_run(config.output, planned)
    start = time.time()
    tree = open_run(config.output)
    print(
        f"measured: opening that run store ({len(list(tree.subtree))} groups, {n_files} stored "
        f"objects in it): {time.time() - start:.2f} s"
    )
    started = time_to_first_unit(config)
    print(f"measured: resume of a 99 % finished run starts work in {started:.1f} s")
    print(f"measured: largest memory {peak_memory() / 1e6:.0f} MB")


def fill_run(run: Path, planned) -> int:
    """Have 99 % of the units done, and a file where each stored object would be."""
    from psfscale.store.stores import open_root

    root, wanted = open_root(run, mode="r+"), planned.wanted.fingerprints
    done = wanted.copy()
    done[::100] = 0
    root["units/fingerprint"][...] = done
    root["units/wanted"][...] = wanted
    states = np.ones(root["ccds/state"].shape, np.uint8)
    states[::100] = 0
    root["ccds/state"][...] = states
    n_files = 0
    for path in (
        "models/rca/eigen_psf",
        "models/rca/parameters",
        "stars/fits",
        "stars/metrics",
        "ccds/stamps",
    ):
        tail = ".0" * (root[path].ndim - 1)
        for exposure in np.flatnonzero(done[:, 0]):
            (run / path / f"c.{exposure}{tail}").touch()
            n_files += 1
    return n_files


def time_to_first_unit(config) -> float:
    from psfscale.pipeline import run
    from psfscale.pipeline.events import UnitSubmitted

    start, seen = time.time(), []

    def stop(event) -> None:
        if isinstance(event, UnitSubmitted) and not seen:
            seen.append(time.time())
            os.kill(os.getpid(), signal.SIGINT)

    run(config, serial=True, observers=[stop])
    return seen[0] - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what", choices=["overhead", "draw", "share", "plan", "memory", "utilisation"]
    )
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--ccds", type=int, default=36)
    parser.add_argument("--exposures", type=int, default=40_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--serial", action="store_true")
    parser.add_argument("--mean", type=float, default=10.0, help="length of a sleeping unit [s]")
    parser.add_argument("--rounds", type=int, default=8, help="sleeping units a worker")
    given = parser.parse_args()
    if given.what not in ("draw", "share"):  # whose survey is drawn once and kept
        shutil.rmtree(given.scratch, ignore_errors=True)
    given.scratch.mkdir(parents=True, exist_ok=True)
    if given.what == "overhead":
        overhead(given.scratch, n_ccds=given.ccds, serial=given.serial, workers=given.workers)
    elif given.what == "draw":
        scale_share.prepare(
            given.scratch, n_exposures=given.exposures, n_ccds=given.ccds, workers=given.workers
        )
    elif given.what == "share":
        scale_share.share(
            given.scratch,
            n_exposures=given.exposures,
            n_ccds=given.ccds,
            workers=tuple(range(1, given.workers + 1)),
        )
    elif given.what == "plan":
        plan(given.scratch, n_exposures=given.exposures, n_ccds=given.ccds)
    elif given.what == "memory":
        scale_drive.memory(given.scratch, sizes=(100, 1000, 10_000, 100_000))
    else:
        scale_simulated.utilisation(
            given.scratch, workers=given.workers, mean=given.mean, rounds=given.rounds
        )


if __name__ == "__main__":
    main()
