"""Catalogues of any format as columns: FITS, LDAC, ECSV, CSV, Parquet, npz."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Table as AstropyTable
from astropy.utils.exceptions import AstropyWarning

from psfscale.errors import InputError
from psfscale.store.ingest.formats.fitsfile import FITS_SUFFIXES
from psfscale.store.ingest.formats.lookup import FileDefectError
from psfscale.store.ingest.formats.units import conversion

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from psfscale.store.ingest.formats.fitsfile import FitsFiles
    from psfscale.survey.recipe import Column, Cut

_TEXT_FORMATS = {".ecsv": "ascii.ecsv", ".csv": "ascii.csv"}
_PARQUET_SUFFIXES = (".parquet", ".pq")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns of a catalogue, read when asked for.

    Attributes
    ----------
    path : of the file, for messages
    columns : anything that gives an array by name
    units : by name, where the file tells them
    n_rows : objects
    """

    path: Path
    columns: Mapping[str, Any]
    units: Mapping[str, str]
    n_rows: int

    def raw(self, name: str) -> np.ndarray:
        """The column of this name as it stands.

        Raises
        ------
        InputError
            There is no such column.
        """
        if name not in self.columns:
            msg = f"{self.path} has no column {name!r}; it has {', '.join(self.columns) or 'none'}"
            raise InputError(msg)
        return np.ma.getdata(_filled(self.columns[name]))

    def find(self, column: Column) -> str:
        """The first of the column's names that the table has.

        Raises
        ------
        InputError
            It has none of them.
        """
        for name in column.name:
            if name in self.columns:
                return name
        msg = (
            f"{self.path} has no column {' or '.join(map(repr, column.name))}; "
            f"it has {', '.join(self.columns) or 'none'}"
        )
        raise InputError(msg)

    def unit(self, column: Column) -> str | None:
        """Unit of the column: the recipe's, else the file's."""
        return column.unit or self.units.get(self.find(column)) or None

    def numbers(self, column: Column, *, target: str | None = None) -> np.ndarray:
        """The column as float64, in the unit `target` (taken as it is where none is stated).

        Raises
        ------
        InputError
            The column is missing, not of numbers, or of another unit.
        """
        name, values = self.find(column), self._element(column)
        try:
            numbers = values.astype(np.float64)
        except (ValueError, TypeError) as error:
            msg = f"{self.path}: column {name!r} does not hold numbers: {error}"
            raise InputError(msg) from error
        unit = self.unit(column)
        if target is None or unit is None:
            return numbers
        try:
            return numbers * conversion(unit, target)
        except InputError as error:
            msg = f"{self.path}: column {name!r}: {error}"
            raise InputError(msg) from error

    def integers(self, column: Column) -> np.ndarray:
        """The column as int64.

        Raises
        ------
        InputError
            The column is missing or does not hold whole numbers.
        """
        name, values = self.find(column), self._element(column)
        if np.issubdtype(values.dtype, np.integer):
            return values.astype(np.int64)
        try:
            numbers = values.astype(np.float64)
        except (ValueError, TypeError):
            numbers = np.full(len(values), np.nan)
        if not (np.isfinite(numbers) & (numbers == np.rint(numbers))).all():
            msg = f"{self.path}: column {name!r} must hold whole numbers, found {values.dtype}"
            raise InputError(msg)
        return numbers.astype(np.int64)

    def choices(self, column: Column, names: tuple[str, ...]) -> np.ndarray:
        """The column as numbers of `names`, from 1; 0 where it is empty or says 0.

        Raises
        ------
        InputError
            The column holds another word, or a number out of range.
        """
        values = self._element(column)
        if values.dtype.kind in "SUO":
            words = [w.decode() if isinstance(w, bytes) else str(w) for w in values.tolist()]
            known = {"": 0, "0": 0, **{name: k for k, name in enumerate(names, start=1)}}
            found = np.array([known.get(word.strip(), -1) for word in words], np.int64)
        else:
            found = np.where(np.isfinite(values), values, 0).astype(np.int64)
        bad = np.flatnonzero((found < 0) | (found > len(names)))
        if bad.size:
            msg = (
                f"{self.path}: column {self.find(column)!r} says {values[bad[0]]!r} in row "
                f"{bad[0]}, expected one of {list(names)}, a number up to {len(names)}, or nothing"
            )
            raise InputError(msg)
        return found

    def _element(self, column: Column) -> np.ndarray:
        name = self.find(column)
        values = self.raw(name)
        if column.element is not None:
            if values.ndim != 2 or column.element >= values.shape[1]:
                msg = (
                    f"{self.path}: column {name!r} of shape {values.shape} "
                    f"has no element {column.element}"
                )
                raise InputError(msg)
            values = values[:, column.element]
        if values.shape != (self.n_rows,):
            msg = (
                f"{self.path}: column {name!r} has shape {values.shape}, expected "
                f"({self.n_rows},); of a vector column the recipe states the element"
            )
            raise InputError(msg)
        return values


def _filled(column: Any) -> Any:
    """Missing values become NaN."""
    if isinstance(column, np.ma.MaskedArray) and np.ma.is_masked(column):
        return np.ma.filled(column.astype(np.float64), np.nan)
    return column


def selected(table: Table, cuts: tuple[Cut, ...]) -> np.ndarray:
    """(row,) True where all cuts are met; a value that is not finite meets none."""
    keep = np.ones(table.n_rows, bool)
    for cut in cuts:
        values = table.raw(cut.column)
        keep &= np.isfinite(values)
        if cut.minimum is not None:
            keep &= values >= cut.minimum
        if cut.maximum is not None:
            keep &= values <= cut.maximum
        if cut.bits_clear is not None:
            keep &= (np.nan_to_num(values).astype(np.int64) & cut.bits_clear) == 0
    return keep


class _FitsColumns(dict[str, Any]):
    """Columns of a table HDU; each is read when it is asked for."""

    def __init__(self, hdu: Any) -> None:
        super().__init__(dict.fromkeys(hdu.columns.names))
        self._hdu = hdu

    def __getitem__(self, name: str) -> Any:
        values = np.asarray(self._hdu.data[name])
        return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))


def fits_table(hdu: Any, path: Path) -> Table:
    """The columns of a FITS table HDU."""
    units = {column.name: column.unit for column in hdu.columns if column.unit}
    return Table(path=path, columns=_FitsColumns(hdu), units=units, n_rows=hdu.header["NAXIS2"])


def read_table(path: Path, files: FitsFiles, *, hdu: str | None = None) -> Table:
    """A catalogue, its format told by its suffix.

    Parameters
    ----------
    path : of the file
    files : that opens FITS files and keeps them open
    hdu : EXTNAME of a FITS table; LDAC_OBJECTS or the first table if None

    Raises
    ------
    FileDefectError
        The file is missing or cannot be read.
    InputError
        The suffix is unknown, or the file has no such table.
    """
    if not path.is_file():
        msg = f"no catalogue at {path}"
        raise FileDefectError(msg)
    suffix = path.suffix.lower()
    if suffix in FITS_SUFFIXES:
        return fits_table(_table_hdu(files.get(path), hdu, path), path)
    if suffix in _PARQUET_SUFFIXES:
        return _parquet_table(path)
    if suffix in _TEXT_FORMATS:
        return _text_table(path, _TEXT_FORMATS[suffix])
    known = (*FITS_SUFFIXES, *_TEXT_FORMATS, *_PARQUET_SUFFIXES)
    msg = f"{path}: no catalogue format has suffix {suffix!r}; known are {', '.join(known)}"
    raise InputError(msg)


def _table_hdu(hdus: Any, name: str | None, path: Path) -> Any:
    tables = [hdu for hdu in hdus if hasattr(hdu, "columns") and hdu.name != "LDAC_IMHEAD"]
    if name is not None:
        tables = [hdu for hdu in tables if hdu.name == name.upper()]
    if not tables:
        msg = f"{path} has no table HDU{f' named {name}' if name else ''}"
        raise InputError(msg)
    return tables[0]


def _text_table(path: Path, form: str) -> Table:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            table = AstropyTable.read(path, format=form)
    except (OSError, ValueError, KeyError) as error:
        msg = f"{path} cannot be read as {form}: {error}"
        raise FileDefectError(msg) from error
    units = {name: str(table[name].unit) for name in table.colnames if table[name].unit}
    columns = {name: np.ma.asarray(table[name]) for name in table.colnames}
    return Table(path=path, columns=columns, units=units, n_rows=len(table))


def _parquet_table(path: Path) -> Table:
    from pyarrow import ArrowException, parquet

    try:
        table = parquet.read_table(path)
    except (OSError, ArrowException) as error:
        msg = f"{path} cannot be read as Parquet: {error}"
        raise FileDefectError(msg) from error
    columns = {name: table[name].to_numpy() for name in table.column_names}
    units = {
        field.name: field.metadata[b"unit"].decode()
        for field in table.schema
        if field.metadata and b"unit" in field.metadata
    }
    return Table(path=path, columns=columns, units=units, n_rows=table.num_rows)
