"""From a tally to tables and maps that can be read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from psfscale.arrays import ObjectFlag
from psfscale.metrics.tables.columns import GALAXY_QUANTITIES, STAR_QUANTITIES
from psfscale.metrics.tables.exact import joined
from psfscale.metrics.tables.histogram import ACCURACY, SMALLEST, quantiles
from psfscale.metrics.tables.rho import Separations, rho_of_sums
from psfscale.metrics.tables.tally import COUNTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd

    from psfscale.metrics.tables.axes import Axis
    from psfscale.metrics.tables.columns import Measure
    from psfscale.metrics.tables.tally import Tally

QUANTILES = (0.05, 0.16, 0.5, 0.84, 0.95)
KINDS = {"stars": STAR_QUANTITIES, "galaxies": GALAXY_QUANTITIES}
_PER_ROW = ("n", "mean", "sd", "flux_weighted_mean")


def results(
    tally: Tally, axes: Sequence[Axis], *, ccds: np.ndarray | None = None
) -> dict[str, xr.Dataset]:
    """Tables and maps of a tally, by path: ``stars/by_ccd``, ``galaxies/over_field``, ``rho``, ...

    Parameters
    ----------
    tally : of the survey, or a part of it
    axes : that it was counted along
    ccds : ids of the CCDs; their indices if not given

    Returns
    -------
    dict
        Of every kind and axis with an object: over ``quantity`` and the axis' dims ``n``,
        ``mean``, ``sd`` (standard deviation), ``flux_weighted_mean`` and, but for maps,
        ``quantile``; over ``flag`` and the axis' dims ``n_flagged``; ``n_objects``
    """
    found = {
        f"{kind}/{axis.name}": _table(tally.arrays, kind, axis, quantities, ccds)
        for kind, quantities in KINDS.items()
        for axis in axes
        if f"{kind}/{axis.name}/counts" in tally.arrays
        and tally.arrays[f"{kind}/{axis.name}/counts"].any()
    }
    if "rho/terms/high" in tally.arrays:
        found["rho"] = rho_of_sums(tally.arrays, Separations())
    return found


def _table(
    arrays: Mapping[str, np.ndarray],
    kind: str,
    axis: Axis,
    quantities: Sequence[Measure],
    ccds: np.ndarray | None,
) -> xr.Dataset:
    prefix, here = f"{kind}/{axis.name}", axis.dims
    n = arrays[f"{prefix}/n"]
    sums = joined(arrays[f"{prefix}/sums/high"], arrays[f"{prefix}/sums/low"])
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums[:, 0] / n
        values = {
            "n": n,
            "mean": mean,
            "sd": np.sqrt(np.maximum(sums[:, 1] / n - mean**2, 0)),
            "flux_weighted_mean": sums[:, 3] / sums[:, 2],
        }
    told: dict[str, Any] = {
        name: (("quantity", *here), _shaped(value, axis), {"long_name": _MEANINGS[name]})
        for name, value in values.items()
    }
    if not axis.is_map:
        at = quantiles(arrays[f"{prefix}/histogram"], QUANTILES)
        meaning = f"within {ACCURACY:.0%} of its size, or {SMALLEST:g}, of the value of its rank"
        told["quantile"] = (
            ("quantile_at", "quantity", *here), _shaped(at, axis), {"long_name": meaning}
        )  # fmt: skip
    counts = _shaped(arrays[f"{prefix}/counts"], axis)
    told["n_objects"] = (here, counts[0], {"long_name": "objects, measured or not"})
    told["n_flagged"] = (("flag", *here), counts[1:], {"long_name": "objects that bear the flag"})
    return xr.Dataset(told, coords=_coordinates(axis, quantities, ccds))


_MEANINGS = {
    "n": "objects of which the quantity is known",
    "mean": "mean, every object alike",
    "sd": "standard deviation",
    "flux_weighted_mean": "mean, weighted by flux",
}


def _shaped(values: np.ndarray, axis: Axis) -> np.ndarray:
    return values.reshape(*values.shape[:-1], *axis.shape)


def _coordinates(
    axis: Axis, quantities: Sequence[Measure], ccds: np.ndarray | None
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "quantity": _words(quantity.name for quantity in quantities),
        "units": ("quantity", _words(quantity.units for quantity in quantities)),
        "meaning": ("quantity", _words(quantity.long_name for quantity in quantities)),
        "flag": _words(COUNTS[1:]),
        "flag_bit": ("flag", [int(flag) for flag in ObjectFlag]),
    }
    if not axis.is_map:
        found["quantile_at"] = list(QUANTILES)
    for edges in axis.edges:
        ids = ccds if edges.column == "ccd" and ccds is not None else edges.centres
        attributes = {"units": edges.units, "long_name": edges.long_name}
        found[edges.dim] = (edges.dim, np.asarray(ids), attributes)
    return found


def _words(words: Iterable[str]) -> np.ndarray:
    """Texts of any length, as Zarr v3 has them."""
    return np.array(list(words), dtype=object)


def as_frame(table: xr.Dataset) -> pd.DataFrame:
    """A table or map as rows, one a quantity and cell that has objects; quantiles as columns."""
    if "quantity" not in table.dims:
        return table.to_dataframe().reset_index()
    rows = [name for name in _PER_ROW if name in table]
    frame = table[rows].drop_vars(["meaning"]).to_dataframe().reset_index()
    if "quantile" in table:
        for p in table["quantile_at"].values:
            one = table["quantile"].sel(quantile_at=p, drop=True).drop_vars(["units", "meaning"])
            frame[f"q{round(100 * p):02}"] = one.to_dataframe().reset_index()["quantile"]
    frame = frame[frame["n"] > 0]
    return frame.drop(columns=["flag", "flag_bit"], errors="ignore").reset_index(drop=True)
