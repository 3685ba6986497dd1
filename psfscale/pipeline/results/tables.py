"""Tables and maps of runs, tallied from their stores alone.

Tallies add exactly: neither their order, nor their number, nor who counted them changes a bit of
the result.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import xarray as xr

from psfscale.errors import InputError
from psfscale.files import replace_file, write_whole
from psfscale.metrics.tables.axes import axes_of
from psfscale.metrics.tables.tables import as_frame, results
from psfscale.metrics.tables.tally import NOTHING, merge
from psfscale.pipeline.results.tallies import tallies
from psfscale.pipeline.runs.context import read_context
from psfscale.store.stores import STATE_DIRECTORY, consolidate, open_root, values_of
from psfscale.store.versions import METADATA

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from psfscale.pipeline.workers.profiles import ClusterProfile

GROUP = "aggregates"
"""Where tables and maps lie, below a run store or the folder of a run in blocks."""
_LAYOUT = 1
"""Counts changes of what the tables hold."""


def aggregate_stores(
    stores: Sequence[Path],
    output: Path,
    *,
    rho: bool = False,
    cluster: ClusterProfile | None = None,
) -> dict[str, xr.Dataset]:
    """Tally runs, write the tables and maps of them all to ``output/aggregates``, return them.

    The same stores give the same bytes, however often, in whatever order and by however many
    workers this is done, in memory that does not grow with them. A run that goes on is taken as
    it stands.

    Parameters
    ----------
    stores : run stores of one instrument, which share no exposure
    output : a run store, or a folder of run stores
    rho : correlate the residuals of stars too (ρ statistics; needs TreeCorr)
    cluster : whose workers tally parts of the stores; this process if None

    Raises
    ------
    StoreError
        A store is missing, or no run's.
    InputError
        Two stores share an exposure or are of different instruments, no unit of metrics is done
        in any, or TreeCorr is not installed.
    RunError
        The cluster could not tally a part.
    """
    kept = "rho" in read_aggregates(output)  # what was asked for once is not dropped
    total = NOTHING
    for tally in tallies(stores, rho=rho or kept, cluster=cluster):
        total = merge(total, tally)
    if not total.exposures:
        msg = f"no exposure of {output} has metrics yet; `psfscale run` makes them"
        raise InputError(msg)
    if rho and "rho/terms/high" not in total.arrays:
        msg = (
            f"no ρ statistics of {output}: no exposure has two measured reserved stars with right "
            "ascension and declination; ingest them (columns ra, dec, or a WCS), or leave --rho out"
        )
        raise InputError(msg)
    first = read_context(stores[0])
    ids = values_of(open_root(stores[0]), "ccd")
    tables = results(total, axes_of(first.instrument), ccds=ids)
    _write(output, tables, {"exposures": len(total.exposures), "layout": _LAYOUT})
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
        with write_whole(paths[-1]) as partial:
            as_frame(table).to_parquet(partial, index=False)
    return paths


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
        _leave_out(output)  # killed between the next steps, the store opens, without its tables
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)
    if (output / "zarr.json").exists():
        consolidate(output)


def _leave_out(output: Path) -> None:
    """Take the tables out of the metadata gathered at the root of a store."""
    root = output / METADATA
    if not root.is_file():
        return
    document = json.loads(root.read_bytes())
    gathered = (document.get("consolidated_metadata") or {}).get("metadata", {})
    for name in [name for name in gathered if f"{name}/".startswith(f"{GROUP}/")]:
        del gathered[name]
    replace_file(root, json.dumps(document, indent=2).encode())
