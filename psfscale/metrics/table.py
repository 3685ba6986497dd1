"""Per-star metrics as one flat table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from psfscale.arrays import Role

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr

_PLACE = ("id", "role", "x", "y", "field_x", "field_y", "ra", "dec", "snr")
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
    for i, identity in enumerate(np.asarray(tree.dataset["exposure"].values)):
        yield _of_exposure(tree, survey, i).assign(exposure=identity)


def _of_exposure(tree: xr.DataTree, survey: xr.DataTree, i: int) -> pd.DataFrame:
    stars, metrics = survey["stars"].dataset, tree["stars"].dataset
    role = stars["role"].isel(exposure=i).values
    ccd, star = np.nonzero(role != Role.EMPTY)
    columns: dict[str, np.ndarray] = {"ccd": ccd}
    for source, names in ((stars, _PLACE), (metrics, tuple(map(str, metrics.data_vars)))):
        for name in names:
            if name in source and source[name].dims == ("exposure", "ccd", "star"):
                values = source[name].isel(exposure=i).values[ccd, star]
                columns[_RENAMED.get(name, name)] = values
    columns["reserved"] = role[ccd, star] == Role.RESERVED
    return pd.DataFrame(columns)
