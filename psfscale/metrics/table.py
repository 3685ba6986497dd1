"""Per-star metrics as one flat table."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


def metrics_table(tree: xr.DataTree, *, survey: xr.DataTree) -> pd.DataFrame:
    """One row a star of role fit or reserved, with its place and all its metrics."""
    raise NotImplementedError
