"""What the stages of a CCD share: a group's own names, padding, the stored model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from psfscale.arrays import FieldPoints, ObjectFlag, Role

if TYPE_CHECKING:
    import xarray as xr
    from torch import Tensor

    from psfscale.models.base import PsfModel
    from psfscale.pipeline.context import RunContext


def group_of(ccd: xr.Dataset, group: str) -> xr.Dataset:
    """The arrays of one group under their own names: ``stars/image`` becomes ``image``."""
    chosen = [str(name) for name in ccd.data_vars if str(name).rpartition("/")[0] == group]
    names = {name: name.rpartition("/")[2] for name in chosen}
    dims = {str(dim): str(dim).removeprefix(f"{group}.") for dim in ccd[chosen].dims}
    return ccd[chosen].rename({**names, **dims})


def pad(values: np.ndarray, chosen: np.ndarray, n: int) -> np.ndarray:
    """Values of the `chosen` of `n` objects, the rest filled with NaN or 0."""
    fill = np.nan if values.dtype.kind == "f" else 0
    padded = np.full((n, *values.shape[1:]), fill, values.dtype)
    padded[chosen] = values
    return padded


def stored_model(ccd: xr.Dataset, context: RunContext) -> PsfModel:
    """The model that the fit stage stored for the CCD."""
    prefix = f"models/{context.config.model.name}/"
    stored = (name for name in map(str, ccd.variables) if name.startswith(prefix))
    state = {name.removeprefix(prefix): ccd[name].values for name in stored}
    return context.model_class.from_state(state, context.model_settings)


def seen_galaxies(galaxies: xr.Dataset) -> np.ndarray:
    """Indices of the galaxies that have a pixel in use."""
    there = galaxies["role"].values != Role.EMPTY
    return np.flatnonzero(there & (galaxies["weight"].values > 0).any(axis=(1, 2)))


def restoring_psfs(ccd: xr.Dataset, chosen: np.ndarray, context: RunContext) -> Tensor:
    """The PSFs, (object, y, x), that some galaxies are restored with."""
    galaxies = group_of(ccd, "galaxies")
    at = FieldPoints(x=galaxies["x"].values[chosen], y=galaxies["y"].values[chosen])
    return stored_model(ccd, context).predict(at, context.restored_grid)


def extrapolation(ccd: xr.Dataset, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Flags of points on the CCD: `EXTRAPOLATED` beyond the stars that its model was fitted to."""
    beyond = outside(group_of(ccd, "stars"), x, y)
    return np.where(beyond, int(ObjectFlag.EXTRAPOLATED), 0).astype(np.uint32)


def outside(stars: xr.Dataset, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points lie outside the convex hull of the stars the model was fitted to."""
    from scipy.spatial import Delaunay, QhullError

    clipped = (stars["fit_flags"].values & int(ObjectFlag.OUTLIER)) > 0
    used = (stars["role"].values == Role.FIT) & ~clipped
    places = np.column_stack([stars["x"].values[used], stars["y"].values[used]])
    try:
        hull = Delaunay(places)
    except (QhullError, ValueError):  # fewer than three stars, or all on a line: no hull
        return np.ones(x.shape, bool)
    return np.asarray(hull.find_simplex(np.column_stack([x, y])) < 0)
