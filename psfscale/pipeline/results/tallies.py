"""Tallies of run stores, part by part, here or by the workers of a cluster.

The tally of a part is kept beside the markers of its run and used again as long as the units that
it counts are the same. What workers count they keep, and the process that asked reads it from
there: through the cluster go names, as in a run.
"""

from __future__ import annotations

import contextlib
import zlib
from collections import Counter, deque
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from psfscale.arrays import USABLE, UnitState
from psfscale.config import fingerprint
from psfscale.errors import RunError
from psfscale.files import write_whole
from psfscale.metrics.tables.axes import axes_of
from psfscale.metrics.tables.columns import (
    GALAXY_RUN,
    GALAXY_SKY,
    GALAXY_SURVEY,
    STAR_RUN,
    STAR_SKY,
    STAR_SURVEY,
)
from psfscale.metrics.tables.count import Collector
from psfscale.metrics.tables.tally import Tally
from psfscale.pipeline.ledger.table import read_known
from psfscale.pipeline.runs.context import read_context
from psfscale.pipeline.stages.registry import STAGE_NAMES
from psfscale.pipeline.units.mapping import explain
from psfscale.pipeline.units.session import Session
from psfscale.pipeline.units.task import Task
from psfscale.pipeline.workers.executor import ExecutorLostError
from psfscale.pipeline.workers.profiles import KEYS
from psfscale.store.stores import STATE_DIRECTORY, open_root, values_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from psfscale.pipeline.workers.executor import Advance, Executor, Outcome, Parcel
    from psfscale.pipeline.workers.profiles import ClusterProfile

PART = 256
"""Exposures that are tallied together: some seconds of work."""
_VERSION = 2
"""Counts changes of what is tallied."""
_DEATHS = 3
"""Workers that may die of one part."""
_WAIT = 0.5
"""Longest single wait for a part [s]."""
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error)
"""What reading a file raises that is missing or damaged; it is counted again."""


def tallies(
    stores: Sequence[Path], *, rho: bool, cluster: ClusterProfile | None
) -> Iterator[Tally]:
    """The tallies of all parts of run stores.

    Parameters
    ----------
    stores : run stores
    rho : correlate the residuals of stars too (needs TreeCorr)
    cluster : whose workers count where there is more than one part to count; here if None

    Raises
    ------
    StoreError
        A store is missing, or no run's.
    InputError
        `rho` is wanted and TreeCorr is not installed.
    RunError
        A part kills its workers or fails there, or clusters are lost again and again.
    """
    if cluster is not None:
        parts = [(s, k) for s in stores for k in TallyReader.of(s).uncounted(rho=rho)]
        if len(parts) > 1:
            _count_elsewhere(parts, rho=rho, cluster=cluster)
    for store in stores:
        reader = TallyReader.of(store)
        for first in reader.parts:
            yield reader.tally(first, rho=rho)


def count_on_worker(parcel: Parcel, _advance: Advance) -> list[dict[str, Any]]:
    """Tally parts in a worker; the tallies stay on the disk."""
    return [_counted(task) for task in parcel]


def _counted(task: Task) -> dict[str, Any]:
    try:
        TallyReader.of(Path(task.run)).tally(task.exposure, rho=task.stage == _NAMES[True])
    except Exception as error:  # noqa: BLE001 (the asking process raises it)
        return {"error": explain(error)}
    return {"counts": {}}


_NAMES = {False: "tally", True: "tally_rho"}


def _count_elsewhere(
    parts: Sequence[tuple[Path, int]], *, rho: bool, cluster: ClusterProfile
) -> None:
    """Have all parts tallied by a cluster, by others where one is lost."""
    from psfscale.pipeline.workers.cluster import DaskExecutor

    left = deque(_task(store, first, rho=rho) for store, first in parts)
    deaths, lost = Counter[Task](), 0
    while left:
        n_before = len(left)
        executor = DaskExecutor(cluster, work=count_on_worker, private=parts[0][0] / KEYS)
        try:
            _count_by(executor, left, deaths)
        except ExecutorLostError as error:
            lost = 1 if len(left) < n_before else lost + 1
            if lost > cluster.restarts:
                msg = f"gave up after {lost} clusters without progress: {error}"
                raise RunError(msg) from error


def _task(store: Path, first: int, *, rho: bool) -> Task:
    return Task(
        run=str(store), stage=_NAMES[rho], exposure=first, fingerprint="", attempt=1, lease=""
    )


def _count_by(executor: Executor, left: deque[Task], deaths: Counter[Task]) -> None:
    """Hand tasks out until none is left; what an executor loses is in `left` again."""
    flying: dict[Task, None] = {}
    kill = True
    try:
        while left or flying:
            ready = [left.popleft() for _ in range(min(executor.window - len(flying), len(left)))]
            flying |= dict.fromkeys(ready)
            executor.submit([(task,) for task in ready])
            for outcome in executor.collect(_WAIT):
                flying.pop(outcome.task)
                if not _is_counted(outcome, deaths):
                    left.append(outcome.task)
        kill = False
    finally:
        left.extend(flying)
        executor.close(kill=kill)


def _is_counted(outcome: Outcome, deaths: Counter[Task]) -> bool:
    task = outcome.task
    what = f"tallying exposures {task.exposure} to {task.exposure + PART - 1} of {task.run}"
    if outcome.error is not None or outcome.hopeless is not None:
        why = outcome.hopeless or ": ".join((outcome.error or ("", ""))[:2])
        msg = f"{what} failed ({why})"
        raise RunError(msg)
    deaths[task] += outcome.died is not None
    if deaths[task] >= _DEATHS:
        msg = f"{what} killed {_DEATHS} workers, last: {outcome.died}; give them more memory"
        raise RunError(msg)
    return outcome.counts is not None


@dataclass(frozen=True, kw_only=True)
class TallyReader:
    """Reads of a run what its tally counts.

    Attributes
    ----------
    session : open stores
    done : by stage, (exposure, ccd): results are there, of the unit wanted now
    fingerprints : of the units
    """

    session: Session
    done: dict[str, np.ndarray]
    fingerprints: np.ndarray

    @classmethod
    def of(cls, store: Path) -> TallyReader:
        """Of a run as it stands.

        Raises
        ------
        StoreError
            There is no run store.
        """
        session = Session(read_context(store))
        known = read_known(store, STAGE_NAMES)
        wanted = values_of(open_root(store), "units/wanted")
        current = (known.fingerprints > 0) & (known.fingerprints == wanted)
        states = np.where(current[:, None], known.states, UnitState.PENDING)
        done = {name: np.isin(states[..., k], USABLE) for k, name in enumerate(STAGE_NAMES)}
        return cls(session=session, done=done, fingerprints=known.fingerprints)

    @property
    def parts(self) -> range:
        """First exposures of the parts that are tallied one by one."""
        return range(0, len(self.session.ids[0]), PART)

    @property
    def restores(self) -> bool:
        """Whether galaxies are restored."""
        return "restore" in self.session.stages and bool(self.done["restore"].any())

    def tally(self, first: int, *, rho: bool) -> Tally:
        """The tally of a part, counted anew only where its units have changed."""
        kept, stamp = self._kept(first), self._stamp(first, rho=rho)
        tally = _load(kept, stamp)
        if tally is None:
            collector = Collector(axes_of(self.session.context.instrument), rho=rho)
            for exposure, arrays in self._exposures(first):
                collector.add(exposure, **arrays)
            tally = collector.tally()
            _keep(kept, stamp, tally)
        return tally

    def uncounted(self, *, rho: bool) -> list[int]:
        """First exposures of the parts that are not kept as they are now."""
        return [k for k in self.parts if _stamp_in(self._kept(k)) != self._stamp(k, rho=rho)]

    def _kept(self, first: int) -> Path:
        return self.session.context.run / STATE_DIRECTORY / "tallies" / f"{first:06}.npz"

    def _stamp(self, first: int, *, rho: bool) -> str:
        """Names what a tally of these units counts."""
        part = slice(first, first + PART)
        states = (done[part].astype(int).tolist() for done in self.done.values())
        units = [self.fingerprints[part].tolist(), *states]
        return fingerprint(_VERSION, rho, self.restores, self.session.ids[0][part], units)

    def _exposures(self, first: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Id and arrays of every exposure of a part with metrics."""
        measured = self.done["metrics"][first : first + PART].any(axis=1)
        for i in (first + np.flatnonzero(measured)).tolist():
            stars = self._read(i, "stars", STAR_SURVEY, (*STAR_RUN, *STAR_SKY))
            if "stars/jacobian" in self.survey:
                stars["jacobian"] = self.session.of_survey("stars/jacobian").read((i,))
            arrays: dict[str, Any] = {"stars": (stars, self.done["metrics"][i])}
            if self.restores:
                galaxies = self._read(i, "galaxies", GALAXY_SURVEY, (*GALAXY_RUN, *GALAXY_SKY))
                arrays["galaxies"] = galaxies, self.done["restore"][i]
            yield self.session.ids[0][i], arrays

    def _read(
        self, exposure: int, group: str, survey: Sequence[str], run: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Arrays of an exposure by name; those of the run that its schema version lacks are out."""
        session = self.session
        found = {name: self._of_survey(f"{group}/{name}", exposure) for name in survey}
        packs: dict[str, np.ndarray] = {}
        for name in run:
            stored, place = session.of_run(f"{group}/{name}")
            path = stored.array.path
            if path not in packs:
                packs[path] = session.read(stored, (exposure,), required=True)
            if place is None:
                found[name] = packs[path]
            elif place.entries.stop <= packs[path].shape[1]:
                found[name] = place.take(packs[path], axis=1)
        if self.colours.size and f"{group}/sed_id" in self.survey:
            found["colour"] = self.colours[self._of_survey(f"{group}/sed_id", exposure)]
        return found

    def _of_survey(self, path: str, exposure: int) -> np.ndarray:
        required = self.session.is_required(path, exposure, None)
        return self.session.read(self.session.of_survey(path), (exposure,), required=required)

    @cached_property
    def survey(self) -> Any:
        """The survey store."""
        return open_root(self.session.context.config.survey)

    @cached_property
    def colours(self) -> np.ndarray:
        """Mean wavelength of each template [µm]; unknown for the first, which stands for none."""
        if "seds/sed" not in self.survey:
            return np.zeros(0)
        spectra = values_of(self.survey, "seds/sed") @ values_of(self.survey, "seds/wavelength")
        return np.concatenate([[np.nan], spectra[1:]])


def _load(path: Path, stamp: str) -> Tally | None:
    """The tally kept under this stamp, if it is whole."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if str(stored["stamp"]) != stamp:
                return None
            arrays = {name: stored[name] for name in stored if "/" in name}
            return Tally(exposures=tuple(stored["exposures"].tolist()), arrays=arrays)
    except _UNREADABLE:
        return None


def _stamp_in(path: Path) -> str | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return str(stored["stamp"])
    except _UNREADABLE:
        return None


def _keep(path: Path, stamp: str, tally: Tally) -> None:
    with contextlib.suppress(OSError):  # a store that may be read only is tallied each time
        path.parent.mkdir(parents=True, exist_ok=True)
        exposures = np.asarray(tally.exposures, dtype=np.str_)
        kept: dict[str, Any] = {"stamp": stamp, "exposures": exposures, **dict(tally.arrays)}
        with write_whole(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **kept)
