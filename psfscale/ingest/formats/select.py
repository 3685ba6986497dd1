"""Which rows of a catalogue are taken: the recipe's cuts, and rows without a value left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from psfscale.errors import InputError
from psfscale.ingest.formats.tables import words
from psfscale.survey.recipe import Column

if TYPE_CHECKING:
    from psfscale.ingest.formats.tables import Table
    from psfscale.survey.recipe import Cut, ObjectsRecipe

_COUNTED_ELSEWHERE = ("x", "y", "ccd")
_FOUND_OTHERWISE = ("ra", "dec", "snr")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Rows of a catalogue that are taken.

    Attributes
    ----------
    keep : (row,) True for those
    missing : by column, (row,) True where a value that is needed is NULL, NaN or infinite
    """

    keep: np.ndarray
    missing: Mapping[str, np.ndarray]

    def left_out(self, rows: np.ndarray) -> dict[str, int]:
        """Count those of `rows` (a mask) that lack a value, by column."""
        counts = {name: int((rows & null).sum()) for name, null in self.missing.items()}
        return {name: n for name, n in counts.items() if n}


def selection(table: Table, recipe: ObjectsRecipe, *, levels: Iterable[str] = ()) -> Selection:
    """Select the rows of a table that meet all cuts and lack no value that is needed.

    Needed are the values of the columns of the cuts and of the column map. Exceptions: ra, dec and
    snr may be NaN or NULL, since they are found otherwise; an object without x, y is refused later
    for that; a row without a CCD lies on none and is counted there.

    Parameters
    ----------
    table : the catalogue
    recipe : its cuts and column map
    levels : further columns that are needed, such as the noise of each object

    Raises
    ------
    InputError
        A column is missing, or holds something else than the recipe takes it for.
    """
    missing: dict[str, np.ndarray] = {}

    def need(column: Column, *, nan: bool = True) -> None:
        null = table.missing(column, nan=nan)
        name = table.find(column)
        missing[name] = missing.get(name, False) | null

    for name in type(recipe.columns).model_fields:
        column = getattr(recipe.columns, name)
        if column is not None and name not in _COUNTED_ELSEWHERE:
            need(column, nan=name not in _FOUND_OTHERWISE)
    for level in levels:
        need(Column(name=(level,)))
    keep = np.ones(table.n_rows, bool)
    for cut in recipe.select.cuts:
        need(cut.as_column)
        keep &= _meets(table, cut)
    for null in missing.values():
        keep &= ~null
    return Selection(keep=keep, missing=missing)


def _meets(table: Table, cut: Cut) -> np.ndarray:
    """(row,) True where the cut is met; what stands for NULL counts elsewhere."""
    column = cut.as_column
    values = table.values(column)
    keep = np.ones(table.n_rows, bool)
    if cut.equals is not None:
        keep &= _equals(table, cut, values)
    if cut.minimum is None and cut.maximum is None and cut.bits_clear is None:
        return keep
    if values.dtype.kind in "SUO":
        msg = (
            f"{table.path}: column {cut.column!r} holds words; select them by "
            f"{{column: {cut.column}, equals: WORD}}, not by minimum, maximum or bits_clear"
        )
        raise InputError(msg)
    numbers = np.ma.getdata(table.require_numbers(cut.column, values))
    with np.errstate(invalid="ignore"):
        if cut.minimum is not None:
            keep &= numbers >= cut.minimum
        if cut.maximum is not None:
            keep &= numbers <= cut.maximum
    if cut.bits_clear is not None:
        keep &= (table.integers(column) & cut.bits_clear) == 0
    return keep


def _equals(table: Table, cut: Cut, values: np.ndarray) -> np.ndarray:
    wanted = cut.equals or ()
    is_text = values.dtype.kind in "SUO"
    wrong = [item for item in wanted if isinstance(item, str) != is_text]
    if wrong:
        msg = (
            f"{table.path}: column {cut.column!r} holds {'words' if is_text else 'numbers'}, "
            f"which never equal {wrong[0]!r}; write {'WORD' if is_text else 'a number'} there"
        )
        raise InputError(msg)
    if is_text:
        return np.array([word in wanted for word in words(values)], bool)
    return np.isin(np.ma.getdata(values), np.array(wanted))
