"""Stacks of stamps: ``.npz`` arrays, or a ``.npy``."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from psfscale.errors import InputError
from psfscale.ingest.events import FileRefusal
from psfscale.ingest.formats.bounds import require_memory
from psfscale.ingest.formats.calibrate import (
    border_noise,
    check_columns,
    describe,
    mask_saturated,
    with_source_noise,
)
from psfscale.ingest.formats.calibration import Calibration, calibration
from psfscale.ingest.formats.facts import (
    Facts,
    FileDefectError,
    filename_groups,
    one_line,
    sibling,
)
from psfscale.ingest.formats.fitsfile import FitsFiles
from psfscale.ingest.formats.reader import (
    CcdContent,
    FileScan,
    Piece,
    ccd_number,
    exposure_facts,
    known_ccd,
    unknown_ccd_message,
)
from psfscale.ingest.formats.select import selection
from psfscale.ingest.formats.tables import Table, read_table
from psfscale.ingest.objects import Objects

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from psfscale.survey import Survey
    from psfscale.survey.recipe import StackRecipe

_ARRAY_KEY = "image"


class _Arrays(dict[str, Any]):
    """The arrays of a stack; those of an npz are read when they are asked for, once."""

    def __init__(self, path: Path) -> None:
        self._npz: Any = None
        try:
            loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            msg = f"{path} cannot be read as npy or npz: {one_line(error)}"
            raise FileDefectError(msg) from error
        self._path = path
        if isinstance(loaded, np.ndarray):
            names = loaded.dtype.names
            super().__init__({n: loaded[n] for n in names} if names else {_ARRAY_KEY: loaded})
        else:
            super().__init__(dict.fromkeys(loaded.files))
            self._npz = loaded
            for item in loaded.zip.infolist():
                require_memory(item.file_size, f"{path}: the numbers of array {item.filename!r}")

    def __getitem__(self, name: str) -> Any:
        if super().__getitem__(name) is None:
            try:
                self[name] = self._npz[name]
            except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
                msg = f"{self._path}: array {name!r} cannot be read: {one_line(error)}"
                raise FileDefectError(msg) from error
        return super().__getitem__(name)

    def close(self) -> None:
        if self._npz is not None:
            self._npz.close()


class StackReader:
    """One exposure a file; a file's arrays are in memory while its CCDs are read."""

    def __init__(self, survey: Survey, recipe: StackRecipe) -> None:
        self._survey = survey
        self._recipe = recipe
        self._files = FitsFiles()
        self._path: Path | None = None
        self._arrays: _Arrays | None = None

    def close(self) -> None:
        """Let go of all files."""
        self._files.close()
        if self._arrays is not None:
            self._arrays.close()
        self._path = self._arrays = None

    def exposure_of(self, path: Path) -> str | None:
        """Exposure id of a damaged file, from its name alone."""
        try:
            groups = filename_groups(path, self._recipe.filename)
            return Facts(path=path, groups=groups).text(self._recipe.exposure, "exposure")
        except InputError:
            return None

    def scan(self, path: Path) -> FileScan:
        """The CCDs of the file and how many stars each has."""
        facts, table, image = self._open(path)
        check_columns(table, self._recipe.stars)
        calibrate = calibration(self._survey, facts, unit=None)
        exposure = exposure_facts(self._survey, facts)
        keep = selection(table, self._recipe.stars).keep
        self._described(table, np.flatnonzero(keep), calibrate)
        pieces: list[Piece] = []
        refused: list[FileRefusal] = []
        ccds, has_ccd = self._ccds(facts, table)
        found = np.unique(ccds[has_ccd])
        for ccd in found.tolist() if len(found) else self._empty_ccd(facts):
            if ccd in self._recipe.skip_ccds:
                continue
            if not known_ccd(self._survey, ccd):
                why = unknown_ccd_message(self._survey, ccd)
                refused.append(FileRefusal(file=path, exposure=exposure.id, ccd=ccd, reason=why))
                continue
            pieces.append(
                Piece(
                    path=path,
                    exposure=exposure,
                    ccd=ccd,
                    index=ccd,
                    counts={"star": int((keep & has_ccd & (ccds == ccd)).sum())},
                    stamp_shapes={"star": (int(image.shape[1]), int(image.shape[2]))},
                    wavelength=self._wavelength(path),
                )
            )
        return FileScan(pieces=tuple(pieces), refused=tuple(refused))

    def read(self, piece: Piece) -> CcdContent:
        """The stars of one CCD."""
        recipe = self._recipe
        facts, table, stack = self._open(piece.path)
        ccds, has_ccd = self._ccds(facts, table)
        mine = has_ccd & (ccds == piece.ccd)
        choice = selection(table, recipe.stars)
        keep = choice.keep
        rows = np.flatnonzero(mine & keep)
        calibrate = calibration(self._survey, facts, unit=None)
        known = self._described(table, rows, calibrate)
        local = calibrate.around(known["x"], known["y"], (stack.shape[1], stack.shape[2]))
        image = np.asarray(stack[rows], np.float32) * np.asarray(local.electrons, np.float32)
        image -= np.asarray(local.bias, np.float32)
        weight = self._weight(piece.path, image, rows, len(stack), local)
        if calibrate.source_noise:
            weight = with_source_noise(weight, image)
        stars = Objects(
            image=image,
            weight=weight,
            n_not_selected=int((mine & ~keep).sum()),
            missing=choice.left_out(mine),
            **known,
        )
        if recipe.sed is not None:
            bins = len(self._wavelength(piece.path))
            sed = _of_shape(self._load(piece.path), recipe.sed, piece.path, ((len(stack), bins),))
            stars = replace(stars, sed=photons(sed[rows]))
        return CcdContent(objects={"star": mask_saturated(stars, local.saturation, sky=0.0)})

    def _described(
        self, table: Table, rows: np.ndarray, calibrate: Calibration
    ) -> dict[str, np.ndarray]:
        return describe(table, self._recipe.stars, rows, calibrate=calibrate)

    def _open(self, path: Path) -> tuple[Facts, Table, np.ndarray]:
        arrays = self._load(path)
        facts = Facts(
            path=path,
            groups=filename_groups(path, self._recipe.filename),
            keys=_Singles(arrays),
        )
        key = next((name for name in self._recipe.image if name in arrays), None)
        if key is None:
            msg = (
                f"{path} has no array {' or '.join(map(repr, self._recipe.image))}; "
                f"it has {', '.join(arrays) or 'none'}"
            )
            raise InputError(msg)
        image = arrays[key]
        if image.ndim != 3 or not np.issubdtype(image.dtype, np.number):
            msg = f"{path}: {key} has shape {image.shape} of {image.dtype}, expected (star, y, x)"
            raise FileDefectError(msg)
        return facts, self._table(path, facts, arrays, len(image)), image

    def _load(self, path: Path) -> _Arrays:
        if self._path != path or self._arrays is None:
            self.close()
            self._arrays = _Arrays(path)
            self._path = path
        return self._arrays

    def _table(self, path: Path, facts: Facts, arrays: _Arrays, n_rows: int) -> Table:
        if self._recipe.catalogue is None:
            return Table(path=path, columns=arrays, units={}, n_rows=n_rows)
        words: Mapping[str, object] = facts.groups
        if "exposure" not in words:
            words = {**words, "exposure": facts.text(self._recipe.exposure, "exposure id")}
        table = read_table(sibling(path, self._recipe.catalogue, words), self._files)
        if table.n_rows != n_rows:
            msg = f"{table.path} has {table.n_rows} rows for the {n_rows} stamps of {path}"
            raise FileDefectError(msg)
        return table

    def _ccds(self, facts: Facts, table: Table) -> tuple[np.ndarray, np.ndarray]:
        """(star,) CCD id of each, and whether it has one."""
        column = self._recipe.stars.columns.ccd
        if column is not None:
            return table.integers(column), ~table.missing(column)
        return np.full(table.n_rows, self._empty_ccd(facts)[0]), np.ones(table.n_rows, bool)

    def _empty_ccd(self, facts: Facts) -> tuple[int]:
        if self._recipe.ccd is None:
            return (self._survey.instrument.focal_plane.first_ccd,)
        return (ccd_number(facts, facts.text(self._recipe.ccd, "CCD id")),)

    def _wavelength(self, path: Path) -> tuple[float, ...]:
        """Centres of the spectra's bins [µm]; none where the recipe has no spectra."""
        if self._recipe.wavelength is None:
            return ()
        arrays = self._load(path)
        if self._recipe.wavelength not in arrays:
            msg = f"{path} has no array {self._recipe.wavelength!r}; it has {', '.join(arrays)}"
            raise InputError(msg)
        return tuple(np.asarray(arrays[self._recipe.wavelength], np.float64).ravel().tolist())

    def _weight(
        self, path: Path, image: np.ndarray, rows: np.ndarray, n_all: int, calibrate: Calibration
    ) -> np.ndarray:
        """(star, y, x) [1/electron²] from weight, sigma or the stamps' borders; masked: 0."""
        recipe, arrays = self._recipe, self._load(path)
        stamps = (n_all, *image.shape[1:])
        if recipe.weight is not None:
            weight = _of_shape(arrays, recipe.weight, path, (stamps,))[rows] / np.square(
                calibrate.electrons
            )
        else:
            if recipe.sigma is None:
                usable = np.isfinite(image)
                sigma = border_noise(image, usable=usable, section=calibrate.section)
            else:
                given = _of_shape(arrays, recipe.sigma, path, ((), (1,), (n_all,), stamps))
                given = given.reshape(()) if given.size == 1 else given[rows]
                given = given[:, None, None] if given.ndim == 1 else given
                sigma = given * np.asarray(calibrate.electrons)
            with np.errstate(divide="ignore", invalid="ignore"):
                weight = np.broadcast_to(1 / np.square(sigma), image.shape)
        if recipe.mask is not None:
            masked = _of_shape(arrays, recipe.mask, path, (stamps,))[rows] != 0
            weight = np.where(masked, 0, weight)
        return np.asarray(weight, np.float32)


def photons(sed: np.ndarray) -> np.ndarray:
    """Spectra that sum to 1; flat where one is not finite, negative somewhere, or dark."""
    total = sed.sum(axis=1, keepdims=True)
    sound = np.isfinite(total) & (total > 0) & (sed >= 0).all(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(sound, sed / total, 1 / sed.shape[1]))


class _Singles(dict[str, Any]):
    """The arrays of a stack that hold one value."""

    def __init__(self, arrays: _Arrays) -> None:
        super().__init__(dict.fromkeys(arrays))
        self._arrays = arrays

    def __getitem__(self, name: str) -> Any:
        value = np.asarray(self._arrays[name])
        if value.size != 1:
            msg = f"array {name!r} has shape {value.shape}, expected one value"
            raise FileDefectError(msg)
        return value.reshape(()).item()

    def items(self) -> Iterator[Any]:  # type: ignore[override]
        """Names and values of the arrays."""
        return ((name, self[name]) for name in self)


def _of_shape(
    arrays: _Arrays, name: str, path: Path, shapes: tuple[tuple[int, ...], ...]
) -> np.ndarray:
    if name not in arrays:
        msg = f"{path} has no array {name!r}; it has {', '.join(arrays)}"
        raise InputError(msg)
    array = np.asarray(arrays[name])
    if array.shape not in shapes:
        msg = f"{path}: {name} has shape {array.shape}, expected {' or '.join(map(str, shapes))}"
        raise FileDefectError(msg)
    return array
