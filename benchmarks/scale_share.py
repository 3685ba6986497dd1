"""A run with real fits and restorations: the pipeline's share, and what a second worker gains."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from scale_survey import HERE, cpu_seconds

STARS, GALAXIES = 100, 200


@dataclass(frozen=True)
class Walk:
    """What a run took, from its call to its return.

    Attributes
    ----------
    wall : all of it [s]
    work : from the first hand-over to the last unit's end [s]
    cpu : of all processes [s]
    units, stages : CPU of units, and of it in the stages' own code [s]
    busy : wall time of units, summed [s]
    """

    wall: float
    work: float
    cpu: float
    units: float
    stages: float
    busy: float


def prepare(scratch: Path, *, n_exposures: int, n_ccds: int, workers: int = 2) -> dict[str, Path]:
    """A drawn and ingested survey, kept for the next call with the same numbers."""
    from psfscale.ingest import ingest
    from psfscale.simulate import simulate as draw
    from psfscale.survey import load_survey

    sky = scratch / f"sky-{n_exposures}-{n_ccds}"
    store, instrument = sky / "survey.zarr", sky / "survey.yaml"
    if not store.exists():
        shutil.rmtree(sky, ignore_errors=True)
        toy = load_survey(HERE.parent / "catalogs/toy.yaml")
        sizes = {"exposures": n_exposures, "ccds": n_ccds, "stars": STARS, "galaxies": GALAXIES}
        draw(toy, sky, workers=workers, **sizes)
        ingest(load_survey(instrument), sorted((sky / "images").iterdir()), store)
    return {"survey": store, "instrument": instrument}


def walk(given: dict[str, Path], output: Path, *, workers: int) -> Walk:
    """One run, RCA and restoration; no workers: serial."""
    from psfscale.config import RunConfig
    from psfscale.pipeline import run, status
    from psfscale.pipeline.workers.profiles import LocalProfile

    wanted = {"psf": {"at_galaxies": False}, "restore": {"at_galaxies": True}}
    config = RunConfig.model_validate({**given, "output": output, **wanted})
    before, start = sum(cpu_seconds()), time.time()
    cluster = LocalProfile(workers=workers) if workers else None
    run(config, cluster=cluster, serial=not workers, observers=[])
    wall, cpu = time.time() - start, sum(cpu_seconds()) - before
    lines = (output / ".psfscale/events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    begun = min(e["time"] for e in events if e["event"] == "UnitSubmitted")
    ended = max(e["time"] for e in events if e["event"] == "UnitFinished")
    costs = status(output).costs.values()
    return Walk(
        wall=wall,
        work=ended - begun,
        cpu=cpu,
        units=sum(cost.cpu_seconds for cost in costs),
        stages=sum(cost.stage_seconds for cost in costs),
        busy=sum(cost.seconds for cost in costs),
    )


def share(scratch: Path, *, n_exposures: int, n_ccds: int, workers: tuple[int, ...]) -> None:
    """The pipeline's share of a run, and what more workers gain over the first number given."""
    given = prepare(scratch, n_exposures=n_exposures, n_ccds=n_ccds)
    first: Walk | None = None
    for n in workers:
        output = scratch / f"run-{n}.zarr"
        shutil.rmtree(output, ignore_errors=True)
        took = walk(given, output, workers=n)
        rows = n_exposures * n_ccds
        print(
            f"measured: {n_exposures} exposures x {n_ccds} CCDs, {STARS} stars and {GALAXIES} "
            f"galaxies each, RCA and restoration, {f'{n} workers' if n else 'serial'}: "
            f"{took.wall:.1f} s, of it {took.work:.1f} s at work; {took.cpu:.1f} CPU s, of it in "
            f"units {took.units:.1f}, in their stages {took.stages:.1f}"
        )
        print(
            f"  the pipeline's share: of its units {1 - took.stages / took.units:.2%} "
            f"({1e3 * (took.units - took.stages) / rows:.1f} ms a CCD), of the run's CPU "
            f"{1 - took.stages / took.cpu:.2%}; workers busy {took.busy / max(n, 1):.1f} s each; "
            f"{STARS * rows / took.wall:.1f} stars/s, {GALAXIES * rows / took.wall:.1f} galaxies/s"
        )
        first = first or took
        if first is not took:
            print(
                f"  against the first: {first.wall / took.wall:.2f} times faster, "
                f"{first.work / took.work:.2f} at work; a stage takes "
                f"{took.stages / first.stages:.3f} of the CPU"
            )
