"""FITS exposures with catalogues beside them: stamps are cut from the pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from psfscale.arrays import ObjectFlag
from psfscale.errors import InputError
from psfscale.ingest.events import FileRefusal
from psfscale.ingest.formats.bounds import matched
from psfscale.ingest.formats.calibrate import check_columns, describe
from psfscale.ingest.formats.calibration import Calibration, calibration
from psfscale.ingest.formats.damaged import damaged_exposure
from psfscale.ingest.formats.facts import (
    Facts,
    FileDefectError,
    damage,
    filename_groups,
    sibling,
)
from psfscale.ingest.formats.fitsfile import FITS_SUFFIXES, FitsFiles, image_hdus
from psfscale.ingest.formats.pixels import CcdPixels, cut
from psfscale.ingest.formats.planes import Planes, Science
from psfscale.ingest.formats.reader import (
    CcdContent,
    FileScan,
    Piece,
    SharedRows,
    ccd_number,
    exposure_facts,
    known_ccd,
    unknown_ccd_message,
)
from psfscale.ingest.formats.select import selection
from psfscale.ingest.formats.tables import Table, read_table
from psfscale.ingest.formats.wcs import (
    CelestialWcs,
    NoWcsError,
    reference_pixel,
    wcs_of,
)
from psfscale.ingest.objects import Kind, Objects, inside_ccd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from psfscale.survey import Survey
    from psfscale.survey.recipe import CatalogueRecipe, ImagesRecipe

_TABLES_KEPT = 4


class ImagesReader:
    """FITS exposures: several CCDs a file, or one."""

    def __init__(self, survey: Survey, recipe: ImagesRecipe) -> None:
        self._survey = survey
        self._recipe = recipe
        self._files = FitsFiles()
        self._planes = Planes(survey, recipe, self._files)
        self._tables: dict[Path, Table] = {}
        self._last: tuple[Path, dict[int, Science]] | None = None
        self._last_wcs: tuple[tuple[Path, int], CelestialWcs | NoWcsError] | None = None

    def close(self) -> None:
        """Let go of all files."""
        self._tables.clear()
        self._last = self._last_wcs = None
        self._files.close()

    def exposure_of(self, path: Path) -> str | None:
        """Exposure id of a damaged file, as far as it still tells."""
        return damaged_exposure(path, self._recipe)

    def scan(self, path: Path) -> FileScan:
        """The CCDs of the file and how many objects their catalogues name."""
        pieces: list[Piece] = []
        refused: list[FileRefusal] = []
        for science in self._sciences(path, refused):
            try:
                pieces.append(self._piece(science))
            except InputError as error:
                refused.append(
                    FileRefusal(
                        file=path,
                        exposure=science.exposure.id,
                        ccd=science.ccd,
                        reason=damage(path, error),
                    )
                )
        return FileScan(pieces=tuple(pieces), refused=tuple(refused))

    def read(self, piece: Piece) -> CcdContent:
        """Stars and galaxies of one CCD."""
        science = self._science(piece)
        calibrate = self._calibration(science)
        pixels = self._planes.pixels(science, calibrate)
        objects: dict[Kind, Objects] = {}
        shared: dict[Kind, SharedRows] = {}
        for kind, recipe in self._catalogues():
            objects[kind], rows = self._objects(recipe, science, pixels, calibrate)
            if _is_shared(recipe) or recipe.columns.ccd is not None:
                shared[kind] = rows
        return CcdContent(
            objects=objects,
            reference_pixel=reference_pixel(science.hdu.header),
            wcs=self._wcs(science),
            shared=shared,
        )

    def _catalogues(self) -> Iterator[tuple[Kind, CatalogueRecipe]]:
        yield "star", self._recipe.stars
        if self._recipe.galaxies is not None:
            yield "galaxy", self._recipe.galaxies

    def _science(self, piece: Piece) -> Science:
        """The science image of a CCD; what is known of those of the last file is kept."""
        if self._last is None or self._last[0] != piece.path:
            self._last = piece.path, {s.index: s for s in self._sciences(piece.path, [])}
        hdu = self._files.get(piece.path)[piece.index]  # the file may have been closed since
        return replace(self._last[1][piece.index], hdu=hdu)

    def _sciences(self, path: Path, refused: list[FileRefusal]) -> Iterator[Science]:
        """Science images of a file; those that cannot be told are added to `refused`."""
        hdus = self._files.get(path)
        groups = filename_groups(path, self._recipe.filename)
        pattern = self._recipe.science.extname
        found = False
        for rank, (index, hdu) in enumerate(image_hdus(hdus)):
            match = None if pattern is None else matched(pattern, hdu.name, whole=True)
            if pattern is not None and match is None:
                continue
            found = True
            words = {**groups, **({} if match is None else match.groupdict())}
            facts = Facts(path=path, headers=(hdu.header, hdus[0].header), groups=words)
            try:
                exposure = exposure_facts(self._survey, facts)
                ccd = self._ccd(facts)
            except InputError as error:
                why = f"{error} (HDU {index})"
                exposure_id = self.exposure_of(path)
                refused.append(FileRefusal(file=path, exposure=exposure_id, ccd=None, reason=why))
                continue
            if ccd in self._recipe.skip_ccds:
                continue
            names = {**words, "exposure": exposure.id, "ccd": ccd}
            yield Science(
                path=path, index=index, rank=rank, hdu=hdu, facts=facts, names=names,
                exposure=exposure, ccd=ccd,
            )  # fmt: skip
        if not found:
            msg = f"{path} has no 2-D image{f' of EXTNAME {pattern!r}' if pattern else ''}"
            raise FileDefectError(msg)

    def _ccd(self, facts: Facts) -> int:
        if self._recipe.ccd is None:
            return self._survey.instrument.focal_plane.first_ccd
        return ccd_number(facts, facts.text(self._recipe.ccd, "CCD id"))

    def _piece(self, science: Science) -> Piece:
        detector = self._survey.instrument.detector
        if not known_ccd(self._survey, science.ccd):
            raise FileDefectError(unknown_ccd_message(self._survey, science.ccd))
        if science.shape != (detector.rows, detector.columns):
            msg = (
                f"{science.path}: HDU {science.index} has shape {science.shape} (y, x), the "
                f"survey's CCDs have {(detector.rows, detector.columns)}"
            )
            raise FileDefectError(msg)
        self._calibration(science)
        self._planes.require(science)
        counts: dict[Kind, int] = {}
        for kind, recipe in self._catalogues():
            table = self._table(recipe, science)
            check_columns(table, recipe)
            self._check_ccds(table, recipe)
            mine = self._mine(table, recipe, science)
            counts[kind] = int((mine & selection(table, recipe).keep).sum())
        return Piece(
            path=science.path,
            exposure=science.exposure,
            ccd=science.ccd,
            index=science.index,
            counts=counts,
            stamp_shapes={kind: recipe.stamp_size for kind, recipe in self._catalogues()},
        )

    def _calibration(self, science: Science) -> Calibration:
        return calibration(self._survey, science.facts, unit=science.hdu.header.get("BUNIT"))

    def _table(self, recipe: CatalogueRecipe, science: Science) -> Table:
        path = sibling(science.path, recipe.path, science.names)
        if path.suffix.lower() in FITS_SUFFIXES:
            return read_table(path, self._files, hdu=recipe.hdu)  # lazy: only its file is kept
        if path not in self._tables:
            while len(self._tables) >= _TABLES_KEPT:
                del self._tables[next(iter(self._tables))]
            self._tables[path] = read_table(path, self._files, hdu=recipe.hdu)
        return self._tables[path]

    def _check_ccds(self, table: Table, recipe: CatalogueRecipe) -> None:
        if recipe.columns.ccd is None:
            return
        ccds = table.integers(recipe.columns.ccd)[~table.missing(recipe.columns.ccd)]
        for ccd in np.unique(ccds).tolist():
            if ccd not in self._recipe.skip_ccds and not known_ccd(self._survey, ccd):
                msg = f"{table.path}: {unknown_ccd_message(self._survey, ccd)}"
                raise FileDefectError(msg)

    def _mine(
        self,
        table: Table,
        recipe: CatalogueRecipe,
        science: Science,
        at: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> np.ndarray:
        """(row,) True for the objects of this CCD; `at` are their pixels by the WCS, if known."""
        if recipe.columns.ccd is not None:
            has_ccd = ~table.missing(recipe.columns.ccd)
            mine: np.ndarray = has_ccd & (table.integers(recipe.columns.ccd) == science.ccd)
            return mine
        if _is_shared(recipe):
            x, y = at or self._sky_pixels(table, recipe, science)
            return inside_ccd(x, y, science.shape)
        return np.ones(table.n_rows, bool)

    def _wcs(self, science: Science) -> CelestialWcs | NoWcsError:
        """The WCS of a CCD, or why it has none; the last one is kept."""
        place = science.path, science.index
        if self._last_wcs is None or self._last_wcs[0] != place:
            self._last_wcs = place, wcs_of(science.hdu.header, self._files.get(science.path))
        return self._last_wcs[1]

    def _sky_pixels(
        self, table: Table, recipe: CatalogueRecipe, science: Science
    ) -> tuple[np.ndarray, np.ndarray]:
        columns = recipe.columns
        if columns.ra is None or columns.dec is None:
            return np.full(table.n_rows, np.nan), np.full(table.n_rows, np.nan)
        ra, dec = table.numbers(columns.ra, target="deg"), table.numbers(columns.dec, target="deg")
        wcs = self._wcs(science)
        if isinstance(wcs, NoWcsError):
            msg = f"{science.path}: positions: sky needs the WCS of HDU {science.index}, but {wcs}"
            raise FileDefectError(msg)
        return wcs.pixel(ra, dec, science.shape)

    def _objects(
        self,
        recipe: CatalogueRecipe,
        science: Science,
        pixels: CcdPixels,
        calibrate: Calibration,
    ) -> tuple[Objects, SharedRows]:
        table = self._table(recipe, science)
        on_sky = recipe.positions == "sky"
        at = self._sky_pixels(table, recipe, science) if on_sky else None
        mine = self._mine(table, recipe, science, at)
        choice = selection(table, recipe)
        keep = choice.keep
        rows = np.flatnonzero(mine & keep)
        known = describe(table, recipe, rows, calibrate=calibrate, at=at)
        image, weight, full = cut(
            pixels, known["x"], known["y"], recipe.stamp_size, calibrate=calibrate
        )
        known["flags"] = known["flags"] | np.where(full, np.uint32(ObjectFlag.SATURATED), 0).astype(
            np.uint32
        )
        objects = Objects(
            image=image,
            weight=weight,
            full=pixels.full_at(known["x"], known["y"]),
            n_not_selected=int((mine & ~keep).sum()),
            missing=choice.left_out(mine),
            **known,
        )
        wanted = keep
        if recipe.columns.ccd is not None:
            skipped = np.isin(table.integers(recipe.columns.ccd), self._recipe.skip_ccds)
            wanted = keep & ~(skipped & ~table.missing(recipe.columns.ccd))
        return objects, SharedRows(catalogue=table.path, n_selected=int(wanted.sum()), rows=rows)


def _is_shared(recipe: CatalogueRecipe) -> bool:
    """Whether one catalogue serves all CCDs of an exposure, and the WCS shares it out."""
    return recipe.positions == "sky" and recipe.columns.ccd is None and "{ccd}" not in recipe.path
