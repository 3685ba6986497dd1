"""Tables and maps of runs, tallied from their stores alone; no cluster is needed.

The tally of a run store is kept beside its markers and used again as long as the units that it
counts are the same. Runs in blocks are tallied one by one, by several processes if asked; since
tallies add exactly, neither their order nor their number changes a bit of the result.
"""

from __future__ import annotations

import os
import shutil
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import xarray as xr

from psfscale.arrays import UnitState
from psfscale.config import fingerprint
from psfscale.errors import InputError
from psfscale.metrics.survey.axes import axes_of
from psfscale.metrics.survey.collect import Collector
from psfscale.metrics.survey.objects import GALAXY_RUN, GALAXY_SURVEY, STAR_RUN, STAR_SURVEY
from psfscale.metrics.survey.results import as_frame, results
from psfscale.metrics.survey.tally import NOTHING, Tally, merge
from psfscale.pipeline.ledger.books import read_known
from psfscale.pipeline.stages.context import read_context
from psfscale.pipeline.stages.declared import STAGE_NAMES
from psfscale.pipeline.storage import values_of
from psfscale.pipeline.storage.session import Session
from psfscale.store.layout import STATE_DIRECTORY, consolidate, open_root

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

GROUP = "aggregates"
"""Where tables and maps lie, below a run store or the folder of a run in blocks."""
_VERSION = 1
"""Counts changes of what is tallied."""


def aggregate_stores(
    stores: Sequence[Path], output: Path, *, rho: bool = False, workers: int = 1
) -> dict[str, xr.Dataset]:
    """Tally runs, write the tables and maps of them all to ``output/aggregates``, return them.

    The same stores give the same bytes, however often, in whatever order and by however many
    workers this is done. A run that goes on is taken as it stands.

    Parameters
    ----------
    stores : run stores of one instrument, which share no exposure
    output : a run store, or a folder of run stores
    rho : correlate the residuals of stars too (ρ statistics; needs TreeCorr)
    workers : processes that tally a store each

    Raises
    ------
    StoreError
        A store is missing, or no run's.
    InputError
        Two stores share an exposure or are of different instruments, no unit of metrics is done
        in any, or TreeCorr is not installed.
    """
    total = NOTHING
    for tally in _tallies(stores, rho=rho, workers=workers):
        total = merge(total, tally)
    if not total.exposures:
        msg = f"no exposure of {output} has metrics yet; `psfscale run` makes them"
        raise InputError(msg)
    first = read_context(stores[0])
    ids = values_of(open_root(stores[0]), "ccd")
    tables = results(total, axes_of(first.instrument), ccds=ids)
    _write(output, tables, {"exposures": len(total.exposures), "layout": _VERSION})
    return tables


def read_aggregates(output: Path) -> dict[str, xr.Dataset]:
    """Tables and maps as they were written last, lazily; none where none were."""
    folder = output / GROUP
    if not (folder / "zarr.json").is_file():
        return {}
    tree = xr.open_datatree(folder, engine="zarr", chunks=None)
    return {node.path.strip("/"): node.to_dataset() for node in tree.leaves}


def as_parquet(tables: dict[str, xr.Dataset], folder: Path) -> list[Path]:
    """Write every table and map as a Parquet file of rows; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, table in tables.items():
        paths.append(folder / f"{name.replace('/', '-')}.parquet")
        as_frame(table).to_parquet(paths[-1], index=False)
    return paths


def tally_store(store: Path, *, rho: bool = False) -> Tally:
    """The tally of one run store, counted anew only where its units have changed.

    Raises
    ------
    StoreError
        There is no run store.
    InputError
        `rho` is wanted and TreeCorr is not installed.
    """
    reader = _Reader.of(store)
    kept, stamp = store / STATE_DIRECTORY / "tally.npz", reader.stamp(rho=rho)
    tally = _load(kept, stamp)
    if tally is None:
        collector = Collector(axes_of(reader.session.context.instrument), rho=rho)
        for exposure, arrays in reader.exposures():
            collector.add(exposure, **arrays)
        tally = collector.tally()
        _keep(kept, stamp, tally)
    return tally


def _tallies(stores: Sequence[Path], *, rho: bool, workers: int) -> Iterator[Tally]:
    if workers > 1 and len(stores) > 1:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for future in [pool.submit(_tally_quietly, store, rho=rho) for store in stores]:
                future.result()
    for store in stores:
        yield tally_store(store, rho=rho)


def _tally_quietly(store: Path, *, rho: bool) -> None:
    """Tally in a process of its own; the tally itself stays on the disk."""
    tally_store(store, rho=rho)


@dataclass(frozen=True, kw_only=True)
class _Reader:
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
    def of(cls, store: Path) -> _Reader:
        session = Session(read_context(store))
        known = read_known(store, STAGE_NAMES)
        wanted = values_of(open_root(store), "units/wanted")
        current = (known.fingerprints > 0) & (known.fingerprints == wanted)
        states = np.where(current[:, None], known.states, UnitState.PENDING)
        done = {name: states[..., k] == UnitState.DONE for k, name in enumerate(STAGE_NAMES)}
        return cls(session=session, done=done, fingerprints=known.fingerprints)

    @property
    def restores(self) -> bool:
        """Whether any galaxy is restored."""
        return "restore" in self.session.stages and bool(self.done["restore"].any())

    def stamp(self, *, rho: bool) -> str:
        """Names what a tally of these units counts."""
        units = [self.fingerprints.tolist(), *(d.astype(int).tolist() for d in self.done.values())]
        return fingerprint(_VERSION, rho, self.session.ids[0], units)

    def exposures(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Id and arrays of every exposure with metrics."""
        for i in np.flatnonzero(self.done["metrics"].any(axis=1)).tolist():
            arrays: dict[str, Any] = {
                "stars": (self._read(i, "stars", STAR_SURVEY, STAR_RUN), self.done["metrics"][i])
            }
            if self.restores:
                galaxies = self._read(i, "galaxies", GALAXY_SURVEY, GALAXY_RUN)
                arrays["galaxies"] = galaxies, self.done["restore"][i]
            yield self.session.ids[0][i], arrays

    def _read(
        self, exposure: int, group: str, survey: Sequence[str], run: Sequence[str]
    ) -> dict[str, np.ndarray]:
        session = self.session
        found = {name: session.of_survey(f"{group}/{name}").read((exposure,)) for name in survey}
        packs: dict[str, np.ndarray] = {}
        for name in run:
            stored, place = session.of_run(f"{group}/{name}")
            path = stored.array.path
            if path not in packs:
                packs[path] = stored.read((exposure,))
            found[name] = packs[path] if place is None else place.take(packs[path], axis=1)
        if self.colours.size and f"{group}/sed_id" in self.survey:
            template = session.of_survey(f"{group}/sed_id").read((exposure,))
            found["colour"] = self.colours[template]
        return found

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
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error):
        return None  # it is missing or damaged, and is counted again


def _keep(path: Path, stamp: str, tally: Tally) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(exist_ok=True)
        with partial.open("wb") as file:
            exposures = np.asarray(tally.exposures, dtype=np.str_)
            np.savez_compressed(
                file, allow_pickle=False, stamp=stamp, exposures=exposures, **dict(tally.arrays)
            )
        partial.replace(path)
    except OSError:  # a store that may be read only is tallied each time
        partial.unlink(missing_ok=True)


def _write(output: Path, tables: dict[str, xr.Dataset], attributes: dict[str, Any]) -> None:
    """Put the tables in their place in one step, and make them known to the store around them."""
    state = output / STATE_DIRECTORY
    state.mkdir(parents=True, exist_ok=True)
    new, old = (state / f"{GROUP}.{os.getpid()}.{word}" for word in ("new", "old"))
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)
    root = xr.Dataset(attrs=attributes)
    xr.DataTree.from_dict({"/": root, **tables}).to_zarr(new, zarr_format=3, consolidated=False)
    consolidate(new)
    place = output / GROUP
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)
    if (output / "zarr.json").exists():
        consolidate(output)
