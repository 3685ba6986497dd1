"""Catalogues of any format as columns: FITS, LDAC, ECSV, CSV, Parquet, npz."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Table as AstropyTable
from astropy.utils.exceptions import AstropyWarning

from psfscale.errors import InputError
from psfscale.ingest.formats.facts import FileDefectError, one_line
from psfscale.ingest.formats.fitsfile import DAMAGED, FITS_SUFFIXES
from psfscale.ingest.formats.units import conversion
from psfscale.names import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from psfscale.ingest.formats.fitsfile import FitsFiles
    from psfscale.survey.recipe import Column

_TEXT_FORMATS = {".ecsv": "ascii.ecsv", ".csv": "ascii.csv"}
_PARQUET_SUFFIXES = (".parquet", ".pq")


_WORDS = "SUO"
_NUMBERS = "biuf"
_INT64_END = 2.0**63


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns of a catalogue, read when asked for.

    Attributes
    ----------
    path : of the file, for messages
    columns : anything that gives an array by name; a masked one where values are missing
    units : by name, where the file tells them
    n_rows : objects
    """

    path: Path
    columns: Mapping[str, Any]
    units: Mapping[str, str]
    n_rows: int

    def raw(self, name: str) -> np.ndarray:
        """Return the column of this name as it stands in the file.

        Raises
        ------
        InputError
            There is no such column.
        """
        return np.ma.getdata(self._column(name))

    def find(self, column: Column) -> str:
        """Return the first of the column's names that the table has.

        Raises
        ------
        InputError
            It has none of them.
        """
        for name in column.name:
            if name in self.columns:
                return name
        raise InputError(self._no_column(*column.name))

    def unit(self, column: Column) -> str | None:
        """Return the unit of the column: the recipe's, else the file's."""
        return column.unit or self.units.get(self.find(column)) or None

    def missing(self, column: Column, *, nan: bool = True) -> np.ndarray:
        """Return (row,) True where the column has no value: infinite and, if `nan`, NULL or NaN.

        Raises
        ------
        InputError
            The column is missing or does not hold one value a row.
        """
        values = self.values(column)
        null = np.ma.getmaskarray(values) & nan
        if values.dtype.kind == "f":
            data = np.ma.getdata(values)
            present = ~np.ma.getmaskarray(values)
            null = null | (present & (np.isinf(data) | (np.isnan(data) & nan)))
        return np.asarray(null)

    def values(self, column: Column) -> np.ndarray:
        """Return (row,) values of the column, masked where they are NULL.

        Raises
        ------
        InputError
            The column is missing or does not hold one value a row.
        """
        name = self.find(column)
        values = self._column(name)
        if values.dtype.kind == "O" and not _is_text(values):
            return self._of_lists(name, values, column.element)
        if values.ndim == 1 and column.element is None:
            return values
        if values.ndim != 2 or column.element is None or column.element >= values.shape[1]:
            raise InputError(self._wrong_element(name, values.shape[1:], column.element))
        return values[:, column.element]

    def numbers(self, column: Column, *, target: str | None = None) -> np.ndarray:
        """Return the column as float64, NaN where it has no value.

        Parameters
        ----------
        column : of the recipe
        target : unit to convert to; numbers of a column without a unit are taken as they are

        Raises
        ------
        InputError
            The column is missing, not of numbers, or of another unit.
        """
        name, values = self.find(column), self.values(column)
        numbers = np.ma.getdata(self.require_numbers(name, values)).astype(np.float64)
        numbers[np.ma.getmaskarray(values)] = np.nan
        unit = self.unit(column)
        if target is None or unit is None:
            return numbers
        try:
            return numbers * conversion(unit, target)
        except InputError as error:
            msg = f"{self.path}: column {name!r}: {error}"
            raise InputError(msg) from error

    def integers(self, column: Column) -> np.ndarray:
        """Return the column as int64, 0 where it has no value (`missing` says where).

        Raises
        ------
        InputError
            The column is missing or does not hold whole numbers.
        """
        name, values = self.find(column), self.values(column)
        if values.dtype.kind not in _NUMBERS:
            msg = f"{self.path}: column {name!r} must hold whole numbers, found {_kind(values)}"
            raise InputError(msg)
        numbers = np.array(np.ma.getdata(values))
        numbers[self.missing(column)] = 0
        wrong = (numbers != np.rint(numbers)) | (numbers < -_INT64_END) | (numbers >= _INT64_END)
        if wrong.any():
            msg = (
                f"{self.path}: column {name!r} must hold whole numbers of 64 bits, found "
                f"{numbers[wrong][0]} in row {np.flatnonzero(wrong)[0]}"
            )
            raise InputError(msg)
        return numbers.astype(np.int64)

    def choices(self, column: Column, names: tuple[str, ...]) -> np.ndarray:
        """Return the column as numbers of `names`, from 1; 0 where it is empty or says 0.

        Raises
        ------
        InputError
            The column holds another word, or a number out of range.
        """
        values = self.values(column)
        if values.dtype.kind in _WORDS:
            known = {"": 0, "0": 0, **{name: k for k, name in enumerate(names, start=1)}}
            found = np.array([known.get(word, -1) for word in words(values)], np.int64)
        else:
            found = self.integers(column)
        bad = np.flatnonzero((found < 0) | (found > len(names)))
        if bad.size:
            msg = (
                f"{self.path}: column {self.find(column)!r} says {values[bad[0]]!r} in row "
                f"{bad[0]}, expected one of {list(names)}, a number up to {len(names)}, or nothing"
            )
            raise InputError(msg)
        return found

    def require_numbers(self, name: str, values: np.ndarray) -> np.ndarray:
        """Return `values` of the column `name`, which are numbers.

        Raises
        ------
        InputError
            They are words or something else.
        """
        if values.dtype.kind not in _NUMBERS:
            msg = f"{self.path}: column {name!r} does not hold numbers but {_kind(values)}"
            raise InputError(msg)
        return values

    def _column(self, name: str) -> np.ndarray:
        if name not in self.columns:
            raise InputError(self._no_column(name))
        column: np.ndarray = self.columns[name]
        if len(column) != self.n_rows:
            msg = f"{self.path}: column {name!r} has {len(column)} rows, expected {self.n_rows}"
            raise InputError(msg)
        return column

    def _no_column(self, *names: str) -> str:
        return (
            f"{self.path} has no column {' or '.join(map(repr, names))}"
            f"{nearest(names[0], self.columns)}; "
            f"it has {', '.join(self.columns) or 'none'}"
        )

    def _of_lists(self, name: str, values: np.ndarray, element: int | None) -> np.ndarray:
        """(row,) an element of lists of any length; NULL where a list is too short."""
        if element is None:
            msg = (
                f"{self.path}: column {name!r} holds lists of several numbers a row; state in the "
                f"recipe which of them is meant, such as {{name: {name}, element: 0}}"
            )
            raise InputError(msg)
        lists = [np.ravel(() if item is None else item) for item in np.ma.getdata(values)]
        short = np.array([len(item) <= element for item in lists], bool)
        numbers = np.array(
            [0 if few else item[element] for item, few in zip(lists, short, strict=True)]
        )
        return np.ma.masked_array(numbers, mask=short)

    def _wrong_element(self, name: str, cell: tuple[int, ...], element: int | None) -> str:
        n = cell[0] if len(cell) == 1 else 0
        if n and element is None:
            return (
                f"{self.path}: column {name!r} holds {n} numbers a row; state in the recipe which "
                f"of them is meant, such as {{name: {name}, element: 0}} (0 to {n - 1})"
            )
        shape = "one value a row" if not cell else f"cells of shape {cell}"
        wanted = "one value a row is needed" if element is None else f"no element {element}"
        return f"{self.path}: column {name!r} holds {shape}: {wanted}; name another column"


def words(values: np.ndarray) -> list[str]:
    """Return the words of a text column without the blanks around them; "" for NULL."""
    data = ["" if item is None else item for item in np.ma.getdata(values).tolist()]
    null = np.ma.getmaskarray(values)
    return [
        ""
        if no
        else (item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)).strip()
        for item, no in zip(data, null, strict=True)
    ]


def _is_text(values: np.ndarray) -> bool:
    return all(item is None or isinstance(item, (str, bytes)) for item in np.ma.getdata(values))


def _kind(values: np.ndarray) -> str:
    return "words" if values.dtype.kind in _WORDS else str(values.dtype)


class _FitsColumns(dict[str, Any]):
    """Columns of a table HDU; each is read when it is asked for."""

    def __init__(self, hdu: Any) -> None:
        super().__init__(dict.fromkeys(hdu.columns.names))
        self._hdu = hdu

    def __getitem__(self, name: str) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            values = np.asarray(self._hdu.data[name])
        if not values.dtype.isnative:
            values = values.astype(values.dtype.newbyteorder("="))
        null = self._null(name)
        return values if null is None or not null.any() else np.ma.masked_array(values, mask=null)

    def _null(self, name: str) -> np.ndarray | None:
        """True where the stored number, before TSCAL and TZERO, is TNULL; None without any."""
        column = self._hdu.columns[name]
        stored = self._hdu.data.view(np.ndarray)[name]
        if str(column.format).endswith("L"):
            return np.asarray(stored == 0)
        if column.null is None:
            return None
        if stored.dtype.kind in "iu":
            return np.asarray(stored == column.null)
        if stored.dtype.kind == "S":  # an ASCII table: the field as it is written
            return np.asarray(np.char.strip(stored) == str(column.null).strip().encode())
        return None


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
        return _fits_catalogue(path, files, hdu)
    if suffix in _PARQUET_SUFFIXES:
        return _parquet_table(path)
    if suffix in _TEXT_FORMATS:
        return _text_table(path, _TEXT_FORMATS[suffix])
    known = (*FITS_SUFFIXES, *_TEXT_FORMATS, *_PARQUET_SUFFIXES)
    msg = f"{path}: no catalogue format has suffix {suffix!r}; known are {', '.join(known)}"
    raise InputError(msg)


def _fits_catalogue(path: Path, files: FitsFiles, hdu: str | None) -> Table:
    hdus = files.get(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            return fits_table(_table_hdu(hdus, hdu, path), path)
    except InputError:
        raise
    except DAMAGED as error:
        msg = f"the table in {path} cannot be read: {one_line(error)}"
        raise FileDefectError(msg) from error


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
    except DAMAGED as error:
        msg = f"{path} cannot be read as {form}: {one_line(error)}"
        raise FileDefectError(msg) from error
    units = {name: str(table[name].unit) for name in table.colnames if table[name].unit}
    columns = {name: _text_column(np.ma.asarray(table[name]), form) for name in table.colnames}
    return Table(path=path, columns=columns, units=units, n_rows=len(table))


def _text_column(values: np.ma.MaskedArray[Any, Any], form: str) -> np.ndarray:
    """A column of a text file; CSV cannot tell an empty word from none."""
    if form == "ascii.csv" and values.dtype.kind in _WORDS:
        return np.asarray(values.filled(""))
    return values


def _parquet_table(path: Path) -> Table:
    from pyarrow import ArrowException, parquet

    try:
        table = parquet.read_table(path)
    except (OSError, ArrowException) as error:
        msg = f"{path} cannot be read as Parquet: {one_line(error)}"
        raise FileDefectError(msg) from error
    columns = {name: _parquet_column(table[name]) for name in table.column_names}
    units = {
        field.name: field.metadata[b"unit"].decode()
        for field in table.schema
        if field.metadata and b"unit" in field.metadata
    }
    return Table(path=path, columns=columns, units=units, n_rows=table.num_rows)


def _parquet_column(column: Any) -> np.ndarray:
    """A column of a Parquet file; integers with NULL among them stay integers."""
    from pyarrow import types

    if not column.null_count:
        return np.asarray(column.to_numpy())
    null = column.is_null().to_numpy()
    if types.is_integer(column.type) or types.is_boolean(column.type):
        column = column.fill_null(False if types.is_boolean(column.type) else 0)
    return np.ma.masked_array(column.to_numpy(), mask=null)
