"""What the stages of a CCD share: a group's own names, padding, points, the stored model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from psfscale.arrays import FieldPoints, ObjectFlag, Role
from psfscale.pipeline.stages.focal_plane import CcdPlace, OnCcd
from psfscale.survey.hull import outside_hull

if TYPE_CHECKING:
    import xarray as xr

    from psfscale.models.base import PsfModel
    from psfscale.models.fitted import FittedModel
    from psfscale.pipeline.stages.context import RunContext

EXPOSURE = "exposure/"
"""Before the path of an array that a stage of a CCD reads of all CCDs, with an axis ``ccd``."""


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


def without_left_out(stars: xr.Dataset) -> xr.Dataset:
    """The stars of a CCD, those that the fit left out as if they were not there."""
    left_out = (stars["fit_flags"].values & int(ObjectFlag.LEFT_OUT)) != 0
    role = np.where(left_out, int(Role.EMPTY), stars["role"].values)
    return stars.assign(role=(stars["role"].dims, role.astype(np.uint8)))


def points_of(objects: xr.Dataset, chosen: np.ndarray) -> FieldPoints:
    """Positions of some objects of a CCD, and their spectra where they have any."""
    coloured = "sed" in objects
    return FieldPoints(
        x=objects["x"].values[chosen],
        y=objects["y"].values[chosen],
        sed=objects["sed"].values[chosen] if coloured else None,
        wavelength=objects["wavelength"].values if coloured else None,
    )


def chosen_model(ccd: xr.Dataset, context: RunContext) -> FittedModel:
    """The model that stands for the CCD."""
    if "ccds/model" not in ccd:
        return context.models[0]
    return context.model_of_code(int(ccd["ccds/model"]))


def stored_model(ccd: xr.Dataset, context: RunContext) -> PsfModel | OnCcd:
    """The PSF field of a CCD, as stored."""
    return model_of(ccd, context, chosen_model(ccd, context))


def model_of(ccd: xr.Dataset, context: RunContext, model: FittedModel) -> PsfModel | OnCcd:
    """The PSF field of one of the models of the run on a CCD, as stored."""
    prefix = f"models/{model.name}/"
    stored = (name for name in map(str, ccd.variables) if name.startswith(prefix))
    state = {name.removeprefix(prefix): ccd[name].values for name in stored}
    field = model.restore(state, context.device)
    return OnCcd(field, ccd_place(ccd, context)) if model.of_exposure else field


def ccd_place(ccd: xr.Dataset, context: RunContext) -> CcdPlace:
    """Where a CCD lies in the focal plane, by the layout and by its own objects.

    Raises
    ------
    InputError
        Its objects lie elsewhere.
    """
    x, y, field_x, field_y = (
        np.concatenate([_present(ccd, group, name) for group in ("stars", "galaxies")])
        for name in ("x", "y", "field_x", "field_y")
    )
    return CcdPlace.of(
        context.instrument, int(ccd["ccds/id"]), x=x, y=y, field_x=field_x, field_y=field_y
    )


def _present(ccd: xr.Dataset, group: str, name: str) -> np.ndarray:
    """An array of the objects of a group, of none where the stage does not read their places."""
    if f"{group}/field_x" not in ccd:
        return np.empty(0)
    return np.asarray(ccd[f"{group}/{name}"].values[ccd[f"{group}/role"].values != Role.EMPTY])


def seen_galaxies(galaxies: xr.Dataset) -> np.ndarray:
    """Indices of the galaxies that have a pixel in use."""
    there = galaxies["role"].values != Role.EMPTY
    return np.flatnonzero(there & (galaxies["weight"].values > 0).any(axis=(1, 2)))


def restoring_psfs(ccd: xr.Dataset, chosen: np.ndarray, context: RunContext) -> np.ndarray:
    """The PSFs, (object, y, x), that some galaxies are restored with, at their spectra."""
    at = points_of(group_of(ccd, "galaxies"), chosen)
    return stored_model(ccd, context).predict(at, context.restored_grid)


def extrapolation(ccd: xr.Dataset, x: np.ndarray, y: np.ndarray, context: RunContext) -> np.ndarray:
    """Flags of points on the CCD: `EXTRAPOLATED` beyond the stars that its model was fitted to."""
    stars = group_of(ccd, "stars")
    if chosen_model(ccd, context).of_exposure:
        x, y = ccd_place(ccd, context).position(x, y)
        whole = group_of(ccd, f"{EXPOSURE}stars")
        scale = 1e3 / context.instrument.detector.pixel_size
        stars = whole.assign(x=whole["field_x"] * scale, y=whole["field_y"] * scale)
    return np.where(outside(stars, x, y), int(ObjectFlag.EXTRAPOLATED), 0).astype(np.uint32)


def outside(stars: xr.Dataset, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points lie outside the convex hull of the stars the model was fitted to."""
    unused = int(ObjectFlag.OUTLIER | ObjectFlag.LEFT_OUT)
    used = (stars["role"].values == Role.FIT) & ((stars["fit_flags"].values & unused) == 0)
    places = np.column_stack([stars["x"].values[used], stars["y"].values[used]])
    return outside_hull(places, x, y)
