"""Per-star metrics as one flat table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from psfscale.arrays import Role

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr

PLACE = ("id", "role", "x", "y", "field_x", "field_y", "ra", "dec", "snr")
"""Arrays of the survey's stars in the table, where it has them."""
_RENAMED = {"role": "reserved", "flags": "metric_flags"}


def metrics_table(tree: xr.DataTree, *, survey: xr.DataTree) -> pd.DataFrame:
    """One row a star of role fit or reserved, with its place and all its metrics.

    Columns keep the names of the stores: ``e1_star, e2_star`` are distortions and ``R2_*``
    is Mxx + Myy in arcsec²; ``x, y`` are 0-based pixels; ``reserved`` is true for stars the
    fit has not seen. Write it with ``to_parquet`` or ``to_csv``.

    Parameters
    ----------
    tree : of the run store
    survey : of the survey store it was made from
    """
    parts = list(exposure_tables(tree, survey=survey))
    ccds = np.asarray(tree.dataset["ccd"].values)
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"ccd": []})
    table["ccd"] = ccds[table["ccd"].to_numpy(dtype=int)]
    first = ["exposure", "ccd", "id", "reserved", "x", "y"]
    return table[[*first, *(name for name in table.columns if name not in first)]]


def exposure_tables(tree: xr.DataTree, *, survey: xr.DataTree) -> Iterator[pd.DataFrame]:
    """The same exposure by exposure, so that a survey needs no more memory than one of them.

    CCDs are numbered as they are stored.
    """
    stars, metrics = survey["stars"].dataset, tree["stars"].dataset
    found = {
        _RENAMED.get(name, name): source.variables[name]
        for source, names in ((stars, PLACE), (metrics, tuple(map(str, metrics.data_vars))))
        for name in names
        if name in source and source.variables[name].dims == ("exposure", "ccd", "star")
    }
    for i, identity in enumerate(np.asarray(tree.dataset["exposure"].values)):
        role = stars.variables["role"][i].values
        ccd, star = np.nonzero(role != Role.EMPTY)
        columns = {name: array[i].values[ccd, star] for name, array in found.items()}
        columns["reserved"] = role[ccd, star] == Role.RESERVED
        yield pd.DataFrame({"ccd": ccd, **columns, "exposure": identity})
