"""The ledger proper: markers compacted into one table and one array, by the driver."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from psfscale.arrays import UnitState
from psfscale.pipeline.storage import array_of, values_of
from psfscale.store.layout import STATE_DIRECTORY, open_root

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import pyarrow as pa

    from psfscale.pipeline.ledger.marker import Key, Marker
    from psfscale.pipeline.plan import Unit


def ledger_path(run: Path) -> Path:
    """Where the table of finished units lies."""
    return run / STATE_DIRECTORY / "ledger.parquet"


def plan_path(run: Path) -> Path:
    """Where the table of wanted units lies."""
    return run / STATE_DIRECTORY / "plan.parquet"


def valid(wanted: Iterable[Unit], markers: Mapping[Key, Marker]) -> dict[Key, Marker]:
    """Markers of wanted units that were made under the fingerprint wanted now."""
    found = ((unit, markers.get(unit.key)) for unit in wanted)
    return {u.key: m for u, m in found if m is not None and m.fingerprint == u.fingerprint}


def compact(run: Path, markers: Mapping[Key, Marker]) -> None:
    """Write ``ledger.parquet`` and ``ccds/state`` from the markers that are valid."""
    rows = [_row(marker) for _, marker in sorted(markers.items())]
    _write_table(ledger_path(run), rows, _ledger_schema())
    root = open_root(run, mode="r+")
    stages = [str(name) for name in values_of(root, "stage")]
    states = array_of(root, "ccds/state")
    values = np.zeros(states.shape, np.uint8)
    for marker in markers.values():
        values[marker.exposure, :, stages.index(marker.stage)] = marker.states
    states[...] = values


def _row(marker: Marker) -> dict[str, Any]:
    row: dict[str, Any] = asdict(marker)
    row["versions"] = sorted((row["versions"] or {}).items())
    return row | {f"n_{state.name.lower()}": marker.count(state) for state in UnitState}


def _ledger_schema() -> pa.Schema:
    import pyarrow as pa

    failure = {"stage": pa.string(), "exposure": pa.int64(), "exposure_id": pa.string()}
    failure |= {"ccd": pa.int64(), "ccd_id": pa.int64()}
    failure |= {name: pa.string() for name in ("type", "message", "traceback")}
    columns = {
        "stage": pa.string(),
        "exposure": pa.int64(),
        "exposure_id": pa.string(),
        "fingerprint": pa.string(),
        "states": pa.list_(pa.uint8()),
        **{f"n_{state.name.lower()}": pa.int64() for state in UnitState},
        "failures": pa.list_(pa.struct(list(failure.items()))),
        "seconds": pa.float64(),
        "peak_memory": pa.int64(),
        "host": pa.string(),
        "attempt": pa.int64(),
        "finished": pa.float64(),
        "versions": pa.map_(pa.string(), pa.string()),
    }
    return pa.schema(list(columns.items()))


def write_plan(run: Path, wanted: Iterable[Unit]) -> None:
    """Write down which units the run wants, for `psfscale status`."""
    import pyarrow as pa

    rows = [
        {"stage": u.stage, "exposure": u.exposure, "fingerprint": u.fingerprint} for u in wanted
    ]
    columns = [("stage", pa.string()), ("exposure", pa.int64()), ("fingerprint", pa.string())]
    _write_table(plan_path(run), rows, pa.schema(columns))


def read_plan(run: Path) -> dict[Key, str]:
    """Fingerprint of every wanted unit; empty before the first run."""
    import pyarrow.parquet as pq

    if not plan_path(run).exists():
        return {}
    rows = pq.read_table(plan_path(run)).to_pylist()
    return {(row["stage"], row["exposure"]): row["fingerprint"] for row in rows}


def _write_table(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    temporary = path.with_name(f"{path.name}.tmp")
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)
    temporary.replace(path)
