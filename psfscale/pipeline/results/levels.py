"""What a run has found, one row a star, a galaxy, a CCD or an exposure; lazy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import xarray as xr

from psfscale.arrays import Role
from psfscale.errors import InputError
from psfscale.metrics.table import PLACE

if TYPE_CHECKING:
    from collections.abc import Callable

Level = Literal["star", "galaxy", "ccd", "exposure", "survey"]
_OBJECTS: dict[str, str] = {"star": "stars", "galaxy": "galaxies"}


def rows_of(level: Level, tree: xr.DataTree, survey: Callable[[], xr.DataTree]) -> xr.Dataset:
    """Return all numbers of one level; stamps stay in their groups.

    Parameters
    ----------
    level : of objects (star, galaxy), one row an object that is there; else one row a CCD or an
        exposure, or the numbers of the whole survey
    tree : of the run
    survey : opens that of its survey; asked for objects alone

    Raises
    ------
    InputError
        There is no such level, or the run holds no galaxies.
    """
    if level in _OBJECTS:
        return _objects(level, tree, survey())
    if level == "ccd":
        return _of_dims(_by_stage(tree["ccds"].to_dataset()), ("exposure", "ccd"))
    if level == "exposure":
        return _of_dims(tree["exposures"].to_dataset(), ("exposure",))
    if level == "survey":
        return _of_dims(tree["summary"].to_dataset(), ())
    msg = f"there is no level {level!r}; choose one of {[*_OBJECTS, 'ccd', 'exposure', 'survey']}"
    raise InputError(msg)


def _objects(level: str, tree: xr.DataTree, survey: xr.DataTree) -> xr.Dataset:
    """Numbers of the objects that are there, along one dim, with their exposure and CCD."""
    group, dims = _OBJECTS[level], ("exposure", "ccd", level)
    if group not in tree.children or group not in survey.children:
        msg = f"the run holds no {group}: the survey has none, or the run asked for none"
        raise InputError(msg)
    found = _of_dims(tree[group].to_dataset(), dims)
    begun = slice(tree.sizes["exposure"])  # the survey may have grown since
    given = survey[group].to_dataset().isel(exposure=begun)
    place = given[[name for name in PLACE if name in given and name not in found]]
    there = np.nonzero(given["role"].values != Role.EMPTY)
    at = {dim: xr.DataArray(index, dims=level) for dim, index in zip(dims, there, strict=True)}
    rows: xr.Dataset = xr.merge([place, found], compat="override", join="override").isel(at)
    return rows.assign_attrs({})


def _by_stage(ccds: xr.Dataset) -> xr.Dataset:
    """Give every stage a column of its own: ``state_fit``, ``state_metrics``, ..."""
    states = {
        f"state_{stage}": ccds["state"].sel(stage=stage, drop=True)
        for stage in ccds["stage"].values.tolist()
    }
    return ccds.drop_vars("state").assign(states)


def _of_dims(group: xr.Dataset, dims: tuple[str, ...]) -> xr.Dataset:
    """Arrays over exactly these dims, and their coordinates alone."""
    chosen = group[[name for name, array in group.data_vars.items() if array.dims == dims]]
    others = [name for name, array in chosen.coords.items() if not {*array.dims} <= {*dims}]
    return chosen.drop_vars(others)
