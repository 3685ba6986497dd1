"""From the numbers of a file to electrons, and to inverse variances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from astropy.stats import mad_std

from psfscale.arrays import ObjectFlag
from psfscale.errors import InputError
from psfscale.store.ingest.formats.select import selection
from psfscale.store.ingest.formats.tables import Table
from psfscale.store.ingest.formats.units import conversion, electrons_per

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from psfscale.store.ingest.formats.lookup import Facts
    from psfscale.store.ingest.objects import Objects
    from psfscale.survey import Survey
    from psfscale.survey.recipe import ColumnMap, NumberSource, ObjectsRecipe

_BORDER = 2
_ANGLES = ("ra", "dec")
_READ_AS: dict[str, Callable[..., np.ndarray]] = {
    "id": Table.integers,
    "ccd": Table.integers,
    "flags": Table.integers,
    "sed": Table.values,
}
"""How a mapped column is read where it does not hold numbers."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How the words and numbers of one CCD become ours.

    Attributes
    ----------
    electrons : in one unit of the image
    gain : [electron/adu]
    exposure_time : [s], or None
    saturation : [electron], or None
    source_noise : whether the object's own Poisson noise is added to the variance
    templates : names of the survey's spectra, numbered from 1
    """

    electrons: float
    gain: float
    exposure_time: float | None
    saturation: float | None
    source_noise: bool
    templates: tuple[str, ...] = ()

    def of_unit(self, unit: str) -> float:
        """Electrons in one `unit`."""
        return electrons_per(unit, gain=self.gain, exposure_time=self.exposure_time)

    def level(self, source: NumberSource, facts: Facts, what: str) -> float:
        """A pixel level in electrons."""
        return facts.number(source, source.unit, what) * self.of_unit(source.unit)


def calibration(survey: Survey, facts: Facts, *, unit: str | None) -> Calibration:
    """Calibration of a CCD, from its facts, the recipe and the instrument.

    Parameters
    ----------
    survey : with recipe and instrument
    facts : of the CCD
    unit : of the pixels as the file tells it; the recipe's comes first

    Raises
    ------
    InputError
        Neither states a unit, or it is not one of an image.
    """
    recipe, detector = survey.ingest, survey.instrument.detector
    stated = recipe.unit or unit
    if not stated:
        msg = f"{facts.path}: the unit of the pixels is not stated; give `unit` in the recipe"
        raise InputError(msg)
    gain = (
        facts.number(recipe.gain, "electron / adu", "gain") if recipe.gain else float(detector.gain)
    )
    time = (
        facts.number(recipe.exposure_time, "s", "exposure time") if recipe.exposure_time else None
    )
    saturation = detector.saturation
    if recipe.saturation is not None:
        source = recipe.saturation
        saturation = facts.number(source, source.unit, "saturation") * electrons_per(
            source.unit, gain=gain, exposure_time=time
        )
    return Calibration(
        electrons=electrons_per(stated, gain=gain, exposure_time=time),
        gain=gain,
        exposure_time=time,
        saturation=None if saturation is None else float(saturation),
        source_noise=recipe.source_noise,
        templates=() if survey.spectra is None else survey.spectra.names,
    )


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
    table: Table, columns: ColumnMap, rows: np.ndarray, *, origin: int, calibrate: Calibration
) -> dict[str, np.ndarray]:
    """All that the catalogue tells of these rows, by the names of `Objects`.

    Positions and celestial coordinates are NaN where the recipe has no column for them, and
    spectra flat (template 0).

    Raises
    ------
    InputError
        A column is missing or of another unit or kind.
    """
    blank = np.full(len(rows), np.nan)
    angles = {
        name: table.numbers(column, target="deg")[rows] if column else blank
        for name, column in (("ra", columns.ra), ("dec", columns.dec))
    }
    pixels = {
        name: table.numbers(column)[rows] - origin if column else blank
        for name, column in (("x", columns.x), ("y", columns.y))
    }
    flux = blank
    if columns.flux:
        factor = calibrate.of_unit(_flux_unit(table.unit(columns.flux)))
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


def border_noise(image: np.ndarray, *, usable: np.ndarray) -> float:
    """Rms of the sky from the borders of all stamps of a CCD, objects clipped by the median.

    Returns NaN where no border pixel is usable.
    """
    border = np.ones(image.shape[1:], bool)
    border[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    values = image[:, border][usable[:, border]]
    return float(mad_std(values)) if values.size else float("nan")


def with_source_noise(weight: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Inverse variance [1/electron²] with the Poisson variance of `image` [electron] added."""
    noisier: np.ndarray = weight / (1 + weight * np.maximum(np.nan_to_num(image), 0))
    return noisier


def mask_saturated(
    objects: Objects, saturation: float | None, *, sky: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray]:
    """Weight with saturated pixels masked, and flags with the bit set.

    Parameters
    ----------
    objects : as read
    saturation : [electron], or None
    sky : [electron], what was subtracted from the stamps
    """
    if saturation is None:
        return objects.weight, objects.flags
    full = objects.image + np.asarray(sky, np.float32) >= saturation
    flags = objects.flags.copy()
    flags[full.any(axis=(1, 2))] |= np.uint32(ObjectFlag.SATURATED)
    return np.where(full, np.float32(0), objects.weight), flags
