"""From the numbers of a catalogue and its stamps to electrons, and to inverse variances."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from astropy.stats import mad_std

from psfscale.arrays import ObjectFlag, centre_index
from psfscale.errors import InputError
from psfscale.ingest.formats.select import selection
from psfscale.ingest.formats.tables import Table
from psfscale.ingest.formats.units import Level, conversion, electrons_per

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from psfscale.ingest.formats.calibration import Calibration
    from psfscale.ingest.objects import Objects
    from psfscale.survey.recipe import ObjectsRecipe

_BORDER = 2
_ANGLES = ("ra", "dec")
_READ_AS: dict[str, Callable[..., np.ndarray]] = {
    "id": Table.integers,
    "ccd": Table.integers,
    "flags": Table.integers,
    "sed": Table.values,
}
"""How a mapped column is read where it does not hold numbers."""


def check_columns(table: Table, recipe: ObjectsRecipe, *, levels: Iterable[str] = ()) -> None:
    """Refuse a recipe that does not fit the table, before any stamp is read.

    Parameters
    ----------
    table : the catalogue
    recipe : its cuts and column map
    levels : further columns that are needed

    Raises
    ------
    InputError
        A column is missing, its unit is unknown, or a flux has none.
    """
    columns = recipe.columns
    for name in type(columns).model_fields:
        column = getattr(columns, name)
        if column is None:
            continue
        found = table.find(column)
        unit = table.unit(column)
        read_as: Callable[..., np.ndarray] = _READ_AS.get(name, Table.numbers)
        read_as(table, column)
        try:
            if name in _ANGLES and unit is not None:
                conversion(unit, "deg")
            elif name == "flux":
                electrons_per(_flux_unit(unit), gain=1.0, exposure_time=1.0)
        except InputError as error:
            msg = f"{table.path}: column {found!r}: {error}"
            raise InputError(msg) from error
    selection(table, recipe, levels=levels)


def _flux_unit(unit: str | None) -> str:
    if unit is None:
        msg = "the flux has no unit; state it in the recipe, such as {name: FLUX, unit: adu}"
        raise InputError(msg)
    return unit


def describe(
    table: Table,
    recipe: ObjectsRecipe,
    rows: np.ndarray,
    *,
    calibrate: Calibration,
    at: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """All that the catalogue tells of these rows, by the names of `Objects`.

    Positions and celestial coordinates are NaN where the recipe has no column for them, and
    spectra flat (template 0).

    Parameters
    ----------
    table : the catalogue
    recipe : its columns
    rows : to describe
    calibrate : of the CCD; the flux of an object is in the gain of the pixel it lies on
    at : x, y of all rows [pixel, 0-based], where they are not those of the catalogue

    Raises
    ------
    InputError
        A column is missing or of another unit or kind.
    """
    columns, blank = recipe.columns, np.full(len(rows), np.nan)
    angles = {
        name: table.numbers(column, target="deg")[rows] if column else blank
        for name, column in (("ra", columns.ra), ("dec", columns.dec))
    }
    pixels = {
        name: table.numbers(column)[rows] - recipe.origin if column else blank
        for name, column in (("x", columns.x), ("y", columns.y))
    }
    if at is not None:
        pixels = {"x": at[0][rows], "y": at[1][rows]}
    flux = blank
    if columns.flux:
        local = calibrate.at(pixels["x"], pixels["y"])
        factor = local.of_unit(_flux_unit(table.unit(columns.flux)))
        flux = table.numbers(columns.flux)[rows] * factor
    flagged = (
        table.integers(columns.flags)[rows] != 0 if columns.flags else np.zeros(len(rows), bool)
    )
    return {
        "id": table.integers(columns.id)[rows] if columns.id else rows.astype(np.int64),
        **pixels,
        **angles,
        "flux": flux,
        "snr": table.numbers(columns.snr)[rows] if columns.snr else blank,
        "flags": np.where(flagged, np.uint32(ObjectFlag.CATALOGUE), np.uint32(0)),
        "sed_id": (
            table.choices(columns.sed, calibrate.templates)[rows]
            if columns.sed
            else np.zeros(len(rows), np.int64)
        ),
    }


def border_noise(
    image: np.ndarray, *, usable: np.ndarray, section: np.ndarray | None = None
) -> np.ndarray:
    """Return the rms of the sky from the borders of all stamps of a CCD.

    Objects are clipped by the median. NaN where no border pixel is usable.

    Parameters
    ----------
    image, usable : (object, y, x)
    section : (object, y, x) number of the section of each pixel, where each has a noise of its own

    Returns
    -------
    ndarray
        () or, with sections, (object, y, x).
    """
    border = np.ones(image.shape[1:], bool)
    border[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    usable = usable & border
    if section is None:
        return np.asarray(_scatter(image[usable]))
    noise = np.full(image.shape, np.nan)
    for number in np.unique(section):
        noise[section == number] = _scatter(image[usable & (section == number)])
    return noise


def _scatter(values: np.ndarray) -> float:
    return float(mad_std(values)) if values.size else float("nan")


def with_source_noise(weight: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Inverse variance [1/electron²] with the Poisson variance of `image` [electron] added."""
    noisier: np.ndarray = weight / (1 + weight * np.maximum(np.nan_to_num(image), 0))
    return noisier


def mask_saturated(objects: Objects, saturation: Level | None, *, sky: Level) -> Objects:
    """Return the objects with saturated pixels masked and flagged, and the level where they are.

    Parameters
    ----------
    objects : as read
    saturation : [electron], one or of each pixel, or None
    sky : [electron], what was subtracted from the stamps
    """
    if saturation is None:
        return objects
    full = objects.image + np.asarray(sky, np.float32) >= saturation
    flags = objects.flags.copy()
    flags[full.any(axis=(1, 2))] |= np.uint32(ObjectFlag.SATURATED)
    n, height, width = objects.image.shape
    level = np.broadcast_to(np.asarray(saturation - sky, np.float64), (n, height, width))
    return replace(
        objects,
        weight=np.where(full, np.float32(0), objects.weight),
        flags=flags,
        full=level[:, centre_index(height), centre_index(width)].copy(),
    )
