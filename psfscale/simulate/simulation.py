"""Draw a whole survey: CCDs in parallel, exposures written as they become whole."""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from multiprocessing import active_children, get_context
from typing import TYPE_CHECKING, Literal

from threadpoolctl import threadpool_limits

from psfscale.errors import ConfigError, RunError
from psfscale.files import write_whole_folder
from psfscale.mainguard import end_if_imported_again, missing_guard
from psfscale.processes import SAME_SIGNAL, deaf_children, end_with_parent
from psfscale.simulate.ccd import draw_ccd, require_recipe
from psfscale.simulate.detector import variance
from psfscale.simulate.files import (
    CATALOGUES,
    IMAGES,
    PARTS,
    TRUTH,
    exposure_id,
    write_exposure,
    write_parts,
    write_survey_file,
)
from psfscale.survey.simulation import Size
from psfscale.yamlfile import validate

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    import numpy as np

    from psfscale.survey import Survey
    from psfscale.survey.simulation import SkyRecipe

_WINDOW = 3
"""CCDs handed out per worker; bounds what waits, whatever the size of the survey."""


@dataclass(frozen=True, kw_only=True)
class SimulateEvent:
    """A CCD was drawn, or an exposure written whole.

    Attributes
    ----------
    kind : what happened
    exposure : id of the exposure
    ccd : id of the CCD; None when an exposure was written
    done, total : CCDs drawn so far, and in all
    seconds : since the start
    """

    kind: Literal["ccd", "exposure"]
    exposure: str
    ccd: int | None
    done: int
    total: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class SimulateSummary:
    """What was drawn.

    Attributes
    ----------
    output : folder of the simulated survey
    exposures : ids
    n_ccds : CCDs of each exposure
    n_stars, n_galaxies : over all CCDs
    n_bytes : of all files
    seconds : wall-clock time
    """

    output: Path
    exposures: tuple[str, ...]
    n_ccds: int
    n_stars: int
    n_galaxies: int
    n_bytes: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.output}: {len(self.exposures)} exposures of {self.n_ccds} CCDs, "
            f"{self.n_stars} stars, {self.n_galaxies} galaxies, "
            f"{self.n_bytes / 1e6:.1f} MB in {self.seconds:.1f} s"
        )


@dataclass(frozen=True, kw_only=True)
class _Task:
    survey: Survey
    output: Path
    exposure: int
    ccd: int


@dataclass(frozen=True, kw_only=True)
class _Done:
    exposure: int
    ccd: int
    catalogues: dict[str, dict[str, np.ndarray]]


def simulate(
    survey: Survey,
    output: Path,
    *,
    exposures: int | None = None,
    ccds: int | None = None,
    stars: int | None = None,
    galaxies: int | None = None,
    seed: int | None = None,
    workers: int = 1,
    overwrite: bool = False,
    observer: Callable[[SimulateEvent], None] | None = None,
) -> SimulateSummary:
    """Draw a survey with its truth; the same files from any number of workers.

    Parameters
    ----------
    survey : with a `simulate` recipe
    output : folder to fill, new or empty
    exposures, ccds, stars, galaxies : exposures, CCDs of each, objects on each CCD; the
        recipe's where None
    seed : root of every random number; the recipe's where None
    workers : processes that draw
    overwrite : replace a simulated survey that lies at `output`, once the new one is whole
    observer : is told of every CCD and every exposure

    Raises
    ------
    ConfigError
        The survey has no recipe, or one that cannot be drawn, a size is out of range, or
        something lies in `output`.
    RunError
        A drawing process died.
    """
    end_if_imported_again()
    survey = _sized(
        survey, exposures=exposures, ccds=ccds, stars=stars, galaxies=galaxies, seed=seed
    )
    recipe = require_recipe(survey)
    _require_drawable(survey, recipe, workers)
    if overwrite and output.exists():
        _require_simulated(output)
        with write_whole_folder(output) as partial:
            summary = simulate(survey, partial, workers=workers, observer=observer)
        return replace(summary, output=output)
    ids = list(survey.instrument.focal_plane.ccd_ids[: recipe.size.ccds])
    tasks = [
        _Task(survey=survey, output=output, exposure=exposure, ccd=ccd)
        for exposure in range(recipe.size.exposures)
        for ccd in ids
    ]
    collector = _Collector(survey, output, ids, len(tasks), observer)
    with _folders(output), closing(_drawn(tasks, workers)) as drawn:
        write_survey_file(survey, output / "survey.yaml")
        for done in drawn:
            collector.take(done)
    return collector.summary()


class _Collector:
    """Writes each exposure when its last CCD is drawn, counts, and tells the observer."""

    def __init__(
        self,
        survey: Survey,
        output: Path,
        ccds: list[int],
        total: int,
        observer: Callable[[SimulateEvent], None] | None,
    ) -> None:
        self._survey, self._output, self._ccds = survey, output, ccds
        self._total, self._observer = total, observer
        self._waiting: dict[int, dict[int, _Done]] = {}
        self._start = time.monotonic()
        self._done = self._n_stars = self._n_galaxies = 0

    def take(self, done: _Done) -> None:
        """Account for a CCD whose parts lie on disk."""
        self._done += 1
        self._n_stars += len(done.catalogues["stars"]["ID"])
        self._n_galaxies += len(done.catalogues["galaxies"]["ID"])
        drawn = self._waiting.setdefault(done.exposure, {})
        drawn[done.ccd] = done
        self._tell("ccd", done.exposure, done.ccd)
        if len(drawn) == len(self._ccds):
            self._write(done.exposure, self._waiting.pop(done.exposure))
            self._tell("exposure", done.exposure, None)

    def summary(self) -> SimulateSummary:
        """What was drawn, when all CCDs have been taken."""
        files = (path for path in self._output.rglob("*") if path.is_file())
        n_exposures = self._total // len(self._ccds)
        return SimulateSummary(
            output=self._output,
            exposures=tuple(exposure_id(self._survey, i) for i in range(n_exposures)),
            n_ccds=len(self._ccds),
            n_stars=self._n_stars,
            n_galaxies=self._n_galaxies,
            n_bytes=sum(path.stat().st_size for path in files),
            seconds=time.monotonic() - self._start,
        )

    def _write(self, exposure: int, drawn: dict[int, _Done]) -> None:
        write_exposure(
            self._output,
            self._survey,
            exposure=exposure,
            ccds=self._ccds,
            catalogues={
                kind: [drawn[ccd].catalogues[kind] for ccd in self._ccds]
                for kind in ("stars", "galaxies")
            },
        )

    def _tell(self, kind: Literal["ccd", "exposure"], exposure: int, ccd: int | None) -> None:
        if self._observer is not None:
            self._observer(
                SimulateEvent(
                    kind=kind,
                    exposure=exposure_id(self._survey, exposure),
                    ccd=ccd,
                    done=self._done,
                    total=self._total,
                    seconds=time.monotonic() - self._start,
                )
            )


def _sized(survey: Survey, *, seed: int | None, **sizes: int | None) -> Survey:
    """The survey with the sizes and the seed that are not None put into its recipe."""
    recipe = require_recipe(survey)
    given = {key: value for key, value in sizes.items() if value is not None}
    size = validate(
        recipe.size.model_dump(exclude_unset=True) | given, Size, name="the size of the survey"
    )
    changes: dict[str, object] = {"size": size}
    if seed is not None:
        changes["seed"] = seed
    return survey.model_copy(update={"simulate": recipe.model_copy(update=changes)})


def _require_drawable(survey: Survey, recipe: SkyRecipe, workers: int) -> None:
    plane, size = survey.instrument.focal_plane, recipe.size
    if size.ccds is not None and size.ccds > plane.n_ccds:
        msg = f"{size.ccds} CCDs asked of a focal plane of {plane.n_ccds}; ask for at most those"
        raise ConfigError(msg)
    if recipe.seed < 0:
        msg = f"the seed must not be negative, got {recipe.seed}"
        raise ConfigError(msg)
    if workers < 1:
        msg = f"workers must be at least 1, got {workers}"
        raise ConfigError(msg)
    if variance(recipe, survey.instrument.detector) <= 0:
        msg = "sky and read noise are both 0, so that pixels have no weight; give one of them"
        raise ConfigError(msg)


def _require_simulated(output: Path) -> None:
    """Refuse to replace what is no simulated survey."""
    parts = (IMAGES, CATALOGUES, TRUTH, "survey.yaml")
    if output.is_dir() and not any(output.iterdir()):
        return
    if not all((output / name).exists() for name in parts):
        msg = f"{output} holds no simulated survey: --overwrite replaces those alone, remove it"
        raise ConfigError(msg)


@contextmanager
def _folders(output: Path) -> Iterator[None]:
    """The folders of a simulated survey, and of its parts as long as it is drawn."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        msg = (
            f"{output} exists and is not an empty folder: replace a simulated survey with "
            "--overwrite, or choose another"
        )
        raise ConfigError(msg)
    for name in (IMAGES, CATALOGUES, TRUTH, PARTS):
        (output / name).mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(output / PARTS)
        for partial in output.glob("*/.*.partial"):
            partial.unlink()
        if not any((output / IMAGES).iterdir()):  # nothing became whole: leave an empty folder
            for path in output.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _drawn(tasks: list[_Task], workers: int) -> Generator[_Done, None, None]:
    """Draw the tasks, in any order when several workers do it."""
    if workers == 1:
        yield from map(_draw, tasks)
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=get_context("spawn"),
        initializer=end_with_parent,
        initargs=(os.getpid(),),
    )
    before, queue, running = set(active_children()), deque(tasks), set[Future[_Done]]()
    try:
        while queue or running:
            with deaf_children():
                while queue and len(running) < _WINDOW * workers:
                    running.add(pool.submit(_draw, queue.popleft()))
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    except BrokenProcessPool as error:
        time.sleep(SAME_SIGNAL)  # where a signal ended it, that ends this process too
        why = missing_guard() or "; out of memory? Try fewer workers"
        msg = f"a drawing process died ({error}){why}"
        raise RunError(msg) from error
    except BaseException:
        for process in set(active_children()) - before:
            process.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _draw(task: _Task) -> _Done:
    with threadpool_limits(1):  # processes share the cores out, and sums have one order
        drawn = draw_ccd(task.survey, exposure=task.exposure, ccd=task.ccd)
    write_parts(task.output, task.survey, drawn, exposure=task.exposure, ccd=task.ccd)
    return _Done(
        exposure=task.exposure,
        ccd=task.ccd,
        catalogues={"stars": drawn.stars.catalogue, "galaxies": drawn.galaxies.catalogue},
    )
