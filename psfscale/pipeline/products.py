"""What is made from a run's arrays after its units: aggregates, tables, the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from psfscale.errors import InputError
from psfscale.pipeline.context import RunContext, read_context
from psfscale.pipeline.ledger.lease import Lease
from psfscale.pipeline.storage import array_of
from psfscale.store.layout import open_root, open_tree

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True, kw_only=True)
class MetricsSummary:
    """Metrics of the whole survey: values, units and meanings by name."""

    values: dict[str, float]
    units: dict[str, str]
    meanings: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Values by name; what could not be measured is None."""
        return {k: v if np.isfinite(v) else None for k, v in self.values.items()}

    def __str__(self) -> str:
        return "\n".join(
            f"{name:20} {value:12.6g} {self.units[name]:10} {self.meanings[name]}"
            for name, value in self.values.items()
        )


def aggregate_run(path: Path) -> MetricsSummary:
    """Aggregate the metrics of a run again, from its arrays, and return the survey's.

    Raises
    ------
    StoreError
        There is no run store at `path`.
    RunError
        A driver holds the run.
    """
    context = read_context(path)
    with Lease(path):
        write_aggregates(context)
    return read_summary(path)


def read_summary(path: Path) -> MetricsSummary:
    """Metrics of the whole survey, as a run has written them."""
    summary = open_tree(path)["summary"].to_dataset()
    return MetricsSummary(
        values={str(k): float(v) for k, v in summary.items()},
        units={str(k): v.attrs["units"] for k, v in summary.items()},
        meanings={str(k): v.attrs["long_name"] for k, v in summary.items()},
    )


def write_aggregates(context: RunContext) -> None:
    """Write the metrics of every exposure and of the survey; the driver's alone."""
    from psfscale.metrics import aggregate

    tree, survey = open_tree(context.run), open_tree(context.config.survey)
    groups = aggregate(
        tree["stars"].to_dataset(), survey["stars"].to_dataset(), tree["ccds"].to_dataset()
    )
    root = open_root(context.run, mode="r+")
    for group, arrays in groups.items():
        for name, values in arrays.items():
            array_of(root, f"{group}/{name}")[...] = values.values


def metrics_of_stars(path: Path, table: Path) -> int:
    """Write the metrics of every star as a ``.parquet`` or ``.csv`` table; returns its rows.

    Raises
    ------
    InputError
        The table's name ends otherwise.
    StoreError
        There is no run store at `path`.
    """
    from psfscale.metrics import metrics_table

    _require_suffix(table)
    context = read_context(path)
    frame = metrics_table(open_tree(path), survey=open_tree(context.config.survey))
    if table.suffix == ".csv":
        frame.to_csv(table, index=False)
    else:
        frame.to_parquet(table, index=False)
    return len(frame)


def rho_of_run(path: Path, table: Path) -> xr.Dataset:
    """The ρ statistics of a run's reserved stars, also written as a ``.parquet`` or ``.csv``.

    Raises
    ------
    InputError
        The table's name ends otherwise, there are no pairs, or TreeCorr is not installed.
    StoreError
        There is no run store at `path`.
    """
    from psfscale.metrics import exposure_tables, rho_statistics

    _require_suffix(table)
    context = read_context(path)
    survey = open_tree(context.config.survey)
    found = rho_statistics(exposure_tables(open_tree(path), survey=survey))
    frame = found.to_dataframe().reset_index()
    if table.suffix == ".csv":
        frame.to_csv(table, index=False)
    else:
        frame.to_parquet(table, index=False)
    return found


def _require_suffix(table: Path) -> None:
    if table.suffix not in (".parquet", ".csv"):
        msg = f"a table ends in .parquet or .csv, got {table.name}"
        raise InputError(msg)


def report_run(path: Path, output: Path) -> None:
    """Write the self-contained HTML page about a run.

    Raises
    ------
    StoreError
        There is no run store at `path`.
    """
    from psfscale.pipeline.state import status
    from psfscale.report import write_report

    context = read_context(path)
    write_report(
        open_tree(path),
        survey=open_tree(context.config.survey),
        status=status(path).as_dict(),
        output=output,
    )
