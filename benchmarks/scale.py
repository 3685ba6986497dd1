"""What the pipeline itself costs, and how far it scales: each figure measured or simulated.

OMP_NUM_THREADS=1 python benchmarks/scale.py overhead --scratch DIR
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path

import numpy as np
import psutil
import yaml

from psfscale.pipeline.cost import peak_memory

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


def resident() -> float:
    """Resident memory of this process [MB]."""
    return psutil.Process().memory_info().rss / 1e6


def plan(scratch: Path, *, n_exposures: int, n_ccds: int) -> None:
    """Planning a survey, opening its run store, and resuming when 99 % of it is done."""
    from psfscale.pipeline import open_run, plan_run
    from psfscale.pipeline.context import RunContext
    from psfscale.pipeline.storage.runstore import create_run_store, prepare_run_store

    config = blank_run(scratch, n_exposures, n_ccds)
    before, start = resident(), time.time()
    planned = plan_run(config)
    print(
        f"measured: plan of {n_exposures} exposures x {n_ccds} CCDs, {planned.n_todo} units: "
        f"{time.time() - start:.1f} s, {resident() - before:.0f} MB more, {resident():.0f} in all"
    )
    context = RunContext.build(config)
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


def blank_run(scratch: Path, n_exposures: int, n_ccds: int):
    write_instrument(scratch / "blank.yaml", n_ccds)
    survey = scratch / f"survey-{n_exposures}.zarr"
    if not survey.exists():
        make_survey(survey, n_exposures, n_ccds, pixels=False)
    return config_of(scratch, survey, scratch / f"run-{n_exposures}.zarr")


def fill_run(run: Path, planned) -> int:
    """Have 99 % of the units done, and a file where each stored object would be."""
    from psfscale.store.layout import open_root

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


@dataclass(frozen=True)
class Driven:
    """What a driver did with sleeping units.

    Attributes
    ----------
    n_tasks : exposures
    cpu : of the process of driver and scheduler [s]
    wall : from the first unit to the last [s]
    slept : summed over units [s]
    steady : share of the workers that slept while there was more to hand out
    memory : resident at the end, beyond the start [MB]
    """

    n_tasks: int
    cpu: float
    wall: float
    slept: float
    steady: float
    memory: float


def sleep_parcel(parcel) -> list[dict]:
    """Sleep as long as an exposure takes (fits; its metrics take none); nothing is written."""
    ended = []
    for task in parcel:
        seconds = duration(task.exposure) if task.stage == "fit" else 0.0
        time.sleep(seconds)
        counts = {"n_done": 1, "n_empty": 0, "n_failed": 0, "n_blocked": 0, "seconds": seconds}
        told = {"cpu_seconds": 0.0, "peak_memory": 0, "host": "here"}
        ended.append({"counts": {**counts, **told}})
    return ended


def duration(exposure: int) -> float:
    """Seconds of an exposure: lognormal, 20 % scatter, of mean `SLEEP`."""
    rng = np.random.default_rng(exposure)
    return float(os.environ.get("SLEEP", "0")) * float(rng.lognormal(-0.02, 0.2))


def drive(scratch: Path, n_exposures: int, *, workers: int, processes: bool, mean: float) -> Driven:
    """The run's own driver, and a real scheduler, with sleeping units."""
    from distributed import LocalCluster

    from psfscale.config import Limits
    from psfscale.pipeline import cluster
    from psfscale.pipeline.context import RunContext
    from psfscale.pipeline.driver import Driver
    from psfscale.pipeline.events import UnitFinished
    from psfscale.pipeline.ledger.books import Books, Known
    from psfscale.pipeline.ledger.lease import Lease
    from psfscale.pipeline.plan import remaining, wanted_units
    from psfscale.pipeline.profiles import LocalProfile
    from psfscale.pipeline.storage.runstore import create_run_store, prepare_run_store

    os.environ["SLEEP"] = str(mean)
    config = blank_run(scratch, n_exposures, 1)
    context = RunContext.build(config)
    create_run_store(context)
    ends: list[tuple[float, float]] = []
    began: list[float] = []

    def note(event) -> None:
        if isinstance(event, UnitFinished) and event.stage == "fit" and event.seconds:
            ends.append((event.time, event.seconds))

    def executor():
        started = cluster.DaskExecutor(LocalProfile(workers=workers), work=sleep_parcel)
        started._client.wait_for_workers(workers)
        started._look()
        began[:] = time.time(), time.process_time()
        return started

    if not processes:
        cluster._make_cluster = lambda *_: LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=False, dashboard_address=None
        )
    with Lease(context.run) as lease:
        prepare_run_store(context)
        before = resident()
        wanted = wanted_units(context)
        known = Known.nothing(n_exposures, 1, wanted.fingerprints.shape[1])
        driver = Driver(
            run=context.run,
            books=Books(context.run),
            lease=lease,
            limits=Limits(),
            make_executor=executor,
            restarts=0,
            stop=lambda: False,
            observers=(note,),
        )
        driver.go(remaining(wanted, known, retry_failed=False))
        cpu = time.process_time() - began[1]
    times, slept = np.array(ends).T if ends else np.zeros((2, 1))
    return Driven(
        n_tasks=n_exposures,
        cpu=cpu,
        wall=time.time() - began[0],
        slept=float(slept.sum()),
        steady=_busy(times, slept, began[0], workers),
        memory=resident() - before,
    )


def _busy(ends: np.ndarray, slept: np.ndarray, start: float, workers: int) -> float:
    """Share of the workers' time slept until fewer units than workers are left."""
    stop = np.sort(ends)[max(len(ends) - workers, 0)]
    overlap = np.minimum(ends, stop) - np.maximum(ends - slept, start)
    return float(overlap.clip(0).sum() / (workers * (stop - start)))


def memory(scratch: Path, *, sizes: tuple[int, ...]) -> None:
    """Memory of driver and scheduler, one process, by the number of exposures."""
    for n in sizes:
        code = (
            f"import sys; sys.path[:0] = [{str(HERE)!r}]; import scale; from pathlib import Path\n"
            f"if __name__ == '__main__':\n"
            f"    d = scale.drive(Path({str(scratch)!r}), {n}, workers=2, processes=True, mean=0)\n"
            f"    print('measured:', {n}, 'exposures,', 2 * {n}, 'units:', "
            f"f'{{d.memory:.0f}} MB more at the end, {{scale.resident():.0f}} in all, '"
            f"f'{{1e3 * d.cpu / {n}:.2f}} ms CPU an exposure in driver and scheduler')\n"
        )
        script = scratch / "memory.py"
        script.write_text(code)
        subprocess.run([sys.executable, str(script)], check=True)


def utilisation(scratch: Path, *, workers: int, mean: float, rounds: int) -> None:
    """How busy a real scheduler keeps many in-process workers; then the same simulated."""
    n = workers * rounds
    found = drive(scratch, n, workers=workers, processes=False, mean=mean)
    whole = found.slept / workers / found.wall
    print(
        f"measured: {workers} in-process workers, {n} units of {mean:g} s: utilisation "
        f"{found.steady:.3f} while there is more to hand out, {whole:.3f} with the tail; "
        f"driver and scheduler {1e3 * found.cpu / n:.1f} ms CPU a unit"
    )
    cost = found.cpu / n
    simulated = simulate(workers, n, mean=mean, cost=cost)
    print(f"simulated: the same, {simulated:.3f}")
    for many in (1000, 10_000):
        for length in (mean, 36.0):
            busy = simulate(many, many * rounds, mean=length, cost=cost)
            print(
                f"simulated: {many} workers, units of {length:g} s: utilisation {busy:.3f}; the "
                f"scheduler's process is {min(many / length * cost, 9.99):.0%} busy"
            )


def simulate(workers: int, n: int, *, mean: float, cost: float) -> float:
    """Utilisation while there is more to hand out: every hand-over waits for one process.

    That process, driver and scheduler in one, serves in order and takes `cost` seconds for
    each unit. File system, heartbeats and failures are not in it.
    """
    rng = np.random.default_rng(0)
    lengths = mean * rng.lognormal(-0.02, 0.2, n)
    server, ends, slept = 0.0, [], []
    free = [(0.0, worker) for worker in range(workers)]
    for length in lengths:
        asked, worker = heappop(free)
        server = max(server, asked) + cost
        heappush(free, (server + length, worker))
        ends.append(server + length)
        slept.append(length)
    return _busy(np.array(ends), np.array(slept), 0.0, workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["overhead", "plan", "memory", "utilisation"])
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--ccds", type=int, default=36)
    parser.add_argument("--exposures", type=int, default=40_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--serial", action="store_true")
    parser.add_argument("--mean", type=float, default=10.0, help="length of a sleeping unit [s]")
    parser.add_argument("--rounds", type=int, default=8, help="sleeping units a worker")
    given = parser.parse_args()
    shutil.rmtree(given.scratch, ignore_errors=True)
    given.scratch.mkdir(parents=True)
    if given.what == "overhead":
        overhead(given.scratch, n_ccds=given.ccds, serial=given.serial, workers=given.workers)
    elif given.what == "plan":
        plan(given.scratch, n_exposures=given.exposures, n_ccds=given.ccds)
    elif given.what == "memory":
        memory(given.scratch, sizes=(100, 1000, 10_000, 100_000))
    else:
        utilisation(given.scratch, workers=given.workers, mean=given.mean, rounds=given.rounds)


if __name__ == "__main__":
    main()
