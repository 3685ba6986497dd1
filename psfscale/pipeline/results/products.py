"""What is made from a run's arrays after its units: aggregates, tables, the report."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from psfscale.errors import HeldError, InputError
from psfscale.files import write_whole
from psfscale.pipeline.drive.aggregates import write_aggregates
from psfscale.pipeline.ledger.doubts import doubt_lines
from psfscale.pipeline.ledger.lease import Lease
from psfscale.pipeline.results.run import Run
from psfscale.pipeline.results.tables import aggregate_stores, as_parquet, read_aggregates
from psfscale.pipeline.runs.context import read_context, require_run
from psfscale.pipeline.state.block_status import status_of
from psfscale.pipeline.units.session import Session
from psfscale.store.index import run_stores
from psfscale.store.stores import open_root, open_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import pandas as pd

    from psfscale.pipeline.workers.profiles import ClusterProfile

_EXPOSURES_AT_A_TIME = 64
"""In a table of stars."""


@dataclass(frozen=True, kw_only=True)
class MetricsSummary:
    """Metrics of the whole survey: values, units and meanings by name, and doubtful CCDs."""

    values: dict[str, float]
    units: dict[str, str]
    meanings: dict[str, str]
    doubts: tuple[dict[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Values by name, None where not measured, and ``doubts``, as `DoubtfulCcd` has them."""
        values = {k: v if np.isfinite(v) else None for k, v in self.values.items()}
        return {**values, "doubts": list(self.doubts)}

    def __str__(self) -> str:
        lines = [
            f"{name:20} {value:12.6g} {self.units[name]:10} {self.meanings[name]}"
            for name, value in self.values.items()
        ]
        return "\n".join([*doubt_lines(self.doubts), *lines])


def aggregate_run(
    path: Path, *, rho: bool = False, cluster: ClusterProfile | None = None
) -> MetricsSummary:
    """Aggregate the metrics of a run again, from its arrays, and return the survey's.

    Written are the metrics of every exposure and of the survey, and the tables and maps of
    `psfscale.pipeline.results.tables`.

    Parameters
    ----------
    path : of the run store, or of the folder of a run in blocks, of which those that another
        driver holds are taken as they stand
    rho : correlate the residuals of stars too (needs TreeCorr)
    cluster : whose workers tally, where there is enough to share; this process if not given

    Raises
    ------
    StoreError
        There is no run store at `path`.
    HeldError
        A driver holds the run.
    InputError
        TreeCorr is wanted and not installed.
    RunError
        The cluster could not tally a part.
    """
    stores = run_stores(path)
    for store in stores:  # before a lease and a seal are written into it
        require_run(open_root(store), store)
    if stores == [path]:
        with Lease(path):
            write_aggregates(read_context(path))
            aggregate_stores(stores, path, rho=rho, cluster=cluster)
        return read_summary(path)
    for store in stores:
        with suppress(HeldError), Lease(store):
            write_aggregates(read_context(store))
    aggregate_stores(stores, path, rho=rho, cluster=cluster)
    return read_summary(path)


def read_summary(path: Path) -> MetricsSummary:
    """Metrics of the whole survey, as its runs have written them."""
    summary = Run(path).metrics("survey")
    return MetricsSummary(
        values={str(k): float(v) for k, v in summary.items()},
        units={str(k): v.attrs["units"] for k, v in summary.items()},
        meanings={str(k): v.attrs["long_name"] for k, v in summary.items()},
        doubts=tuple(status_of(path).as_dict()["doubts"]),
    )


def metrics_of_stars(path: Path, table: Path) -> int:
    """Write the metrics of every star as a ``.parquet`` or ``.csv`` table; returns its rows.

    Exposures are read and written one after the other, so a survey needs no more memory than
    a few hundred of them.

    Raises
    ------
    InputError
        The table's name ends otherwise.
    StoreError
        There is no run store at `path`.
    """
    if table.suffix not in (".parquet", ".csv"):
        msg = f"a table ends in .parquet or .csv, got {table.name}"
        raise InputError(msg)
    frames = (frame for store in run_stores(path) for frame in _star_frames(store))
    writer = _write_parquet if table.suffix == ".parquet" else _write_csv
    return writer(frames, table)


def write_tables(path: Path, folder: Path) -> list[Path]:
    """Write the tables and maps that `aggregate_run` made as ``.parquet`` files; returns them.

    Raises
    ------
    InputError
        There are none yet.
    """
    tables = read_aggregates(path)
    if not tables:
        msg = f"{path} has no tables yet; `psfscale metrics {path}` makes them"
        raise InputError(msg)
    return as_parquet(tables, folder)


def _star_frames(store: Path) -> Iterator[pd.DataFrame]:
    """Stars of a run, some exposures at a time; each stored object is read once."""
    from psfscale.metrics.table import PLACE, metrics_table

    context = read_context(store)
    session, tree, survey = Session(context), open_tree(store), open_tree(context.config.survey)
    found = [str(name) for name in tree["stars"].dataset.data_vars]

    def of_run(name: str, i: int) -> np.ndarray:
        stored, place = session.of_run(f"stars/{name}")
        values = session.read(stored, (i,))
        return values if place is None else place.take(values, axis=1)

    def of_survey(name: str, i: int) -> np.ndarray:
        return session.read(session.of_survey(f"stars/{name}"), (i,))

    for start in range(0, tree.sizes["exposure"], _EXPOSURES_AT_A_TIME):
        part = range(tree.sizes["exposure"])[start : start + _EXPOSURES_AT_A_TIME]
        yield metrics_table(
            _stars_at_hand(tree, part, found, of_run),
            survey=_stars_at_hand(survey, part, PLACE, of_survey),
        )


def _stars_at_hand(
    tree: xr.DataTree,
    part: range,
    names: Iterable[str],
    read: Callable[[str, int], np.ndarray],
) -> xr.DataTree:
    """Numbers of the stars of some exposures, in memory."""
    stars, dims = tree["stars"].dataset, ("exposure", "ccd", "star")
    arrays = {
        name: (dims, np.stack([read(name, i) for i in part]))
        for name in names
        if name in stars and stars[name].dims == dims
    }
    root = tree.dataset[["exposure", "ccd"]].isel(exposure=slice(part.start, part.stop))
    return xr.DataTree.from_dict({"/": root, "/stars": xr.Dataset(arrays)})


def _write_csv(frames: Iterable[pd.DataFrame], table: Path) -> int:
    n = 0
    with write_whole(table) as partial, partial.open("w", encoding="utf-8") as file:
        for k, frame in enumerate(frames):
            frame.to_csv(file, index=False, header=k == 0)
            n += len(frame)
    return n


def _write_parquet(frames: Iterable[pd.DataFrame], table: Path) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    first = next(iter(frames := iter(frames)))
    rows = pa.Table.from_pandas(first, preserve_index=False)
    n = len(first)
    with write_whole(table) as partial, parquet.ParquetWriter(partial, rows.schema) as writer:
        writer.write_table(rows)
        for frame in frames:
            writer.write_table(pa.Table.from_pandas(frame, rows.schema, preserve_index=False))
            n += len(frame)
    return n


def report_run(path: Path, output: Path) -> None:
    """Write the self-contained HTML page about a run.

    Raises
    ------
    StoreError
        There is no run store at `path`.
    """
    from psfscale.report import write_report

    run = Run(path)
    write_report(
        run.tree,
        survey=run.survey,
        summary=run.metrics("survey"),
        tables=read_aggregates(path),
        status=status_of(path).as_dict(),
        output=output,
    )
