"""FITS exposures with catalogues beside them: stamps are cut from the pixels."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from psfscale.arrays import ObjectFlag
from psfscale.store.ingest.events import FileRefusal
from psfscale.store.ingest.formats.calibrate import (
    Calibration,
    calibration,
    check_columns,
    describe,
)
from psfscale.store.ingest.formats.damaged import damaged_exposure
from psfscale.store.ingest.formats.fitsfile import (
    FITS_SUFFIXES,
    FitsFiles,
    image_hdus,
    read_mask,
    read_plane,
)
from psfscale.store.ingest.formats.lookup import Facts, FileDefectError, filename_groups, sibling
from psfscale.store.ingest.formats.pixels import (
    CcdPixels,
    cut,
    inverse_variance,
    measured_noise,
    mesh_background,
    modelled_weight,
)
from psfscale.store.ingest.formats.reader import (
    CcdContent,
    ExposureFacts,
    FileScan,
    Piece,
    SharedRows,
    ccd_number,
    exposure_facts,
    known_ccd,
    unknown_ccd_message,
)
from psfscale.store.ingest.formats.select import selection
from psfscale.store.ingest.formats.sky import (
    CelestialWcs,
    NoWcsError,
    reference_pixel,
    wcs_of,
)
from psfscale.store.ingest.formats.tables import Table, read_table
from psfscale.store.ingest.objects import Kind, Objects, inside_ccd
from psfscale.survey.recipe import BackgroundPlane, CardBackground, MeshBackground

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from psfscale.survey import Survey
    from psfscale.survey.recipe import CatalogueRecipe, ImagesRecipe, Plane

_TABLES_KEPT = 4


@dataclass(frozen=True, kw_only=True)
class _Science:
    """One science image: its place in the file and what it is called."""

    path: Path
    index: int
    rank: int
    hdu: Any
    facts: Facts
    names: dict[str, object]
    exposure: ExposureFacts
    ccd: int

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.hdu.header["NAXIS2"]), int(self.hdu.header["NAXIS1"])


class ImagesReader:
    """FITS exposures: several CCDs a file, or one."""

    def __init__(self, survey: Survey, recipe: ImagesRecipe) -> None:
        self._survey = survey
        self._recipe = recipe
        self._files = FitsFiles()
        self._tables: dict[Path, Table] = {}
        self._last: tuple[Path, dict[int, _Science]] | None = None
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
        for science in self._sciences(path):
            try:
                pieces.append(self._piece(science))
            except FileDefectError as error:
                refused.append(
                    FileRefusal(
                        file=path,
                        exposure=science.exposure.id,
                        ccd=science.ccd,
                        reason=str(error),
                    )
                )
        return FileScan(pieces=tuple(pieces), refused=tuple(refused))

    def read(self, piece: Piece) -> CcdContent:
        """Stars and galaxies of one CCD."""
        science = self._science(piece)
        calibrate = self._calibration(science)
        pixels = self._pixels(science, calibrate)
        objects: dict[Kind, Objects] = {}
        shared: dict[Kind, SharedRows] = {}
        for kind, recipe in self._catalogues():
            objects[kind], rows = self._objects(recipe, science, pixels, calibrate)
            if _is_shared(recipe):
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

    def _science(self, piece: Piece) -> _Science:
        """The science image of a CCD; what is known of those of the last file is kept."""
        if self._last is None or self._last[0] != piece.path:
            self._last = piece.path, {s.index: s for s in self._sciences(piece.path)}
        hdu = self._files.get(piece.path)[piece.index]  # the file may have been closed since
        return replace(self._last[1][piece.index], hdu=hdu)

    def _sciences(self, path: Path) -> Iterator[_Science]:
        hdus = self._files.get(path)
        groups = filename_groups(path, self._recipe.filename)
        pattern = self._recipe.science.extname
        found = False
        for rank, (index, hdu) in enumerate(image_hdus(hdus)):
            match = re.fullmatch(pattern, hdu.name) if pattern is not None else None
            if pattern is not None and match is None:
                continue
            found = True
            words = {**groups, **({} if match is None else match.groupdict())}
            facts = Facts(path=path, headers=(hdu.header, hdus[0].header), groups=words)
            exposure = exposure_facts(self._survey, facts)
            ccd = self._ccd(facts)
            if ccd in self._recipe.skip_ccds:
                continue
            names = {**words, "exposure": exposure.id, "ccd": ccd}
            yield _Science(
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

    def _piece(self, science: _Science) -> Piece:
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
        for plane in self._planes():
            self._plane_hdu(plane, science)
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

    def _calibration(self, science: _Science) -> Calibration:
        return calibration(self._survey, science.facts, unit=science.hdu.header.get("BUNIT"))

    def _planes(self) -> Iterator[Plane]:
        background = self._recipe.background
        for plane in (self._recipe.weight, self._recipe.mask):
            if plane is not None:
                yield plane
        if isinstance(background, BackgroundPlane):
            yield background

    def _plane_hdu(self, plane: Plane, science: _Science) -> Any:
        path = science.path
        if plane.path is not None:
            path = sibling(science.path, plane.path, science.names)
        hdus = self._files.get(path)
        images = list(image_hdus(hdus))
        if plane.extname is None:
            chosen = [hdu for _, hdu in images[science.rank : science.rank + 1]]
        else:
            name = plane.extname.format(**science.names, extname=science.hdu.name).upper()
            chosen = [hdu for _, hdu in images if hdu.name == name]
            chosen = [hdu for hdu in chosen if hdu.ver == science.hdu.ver] or chosen[:1] * (
                len(chosen) == 1
            )
        if not chosen:
            name = plane.extname or "of the same rank"
            msg = f"{path} has no image {name} for HDU {science.index} of {science.path}"
            raise FileDefectError(msg)
        shape = (chosen[0].header["NAXIS2"], chosen[0].header["NAXIS1"])
        if shape != science.shape:
            msg = f"{path}: {chosen[0].name} has shape {shape}, the image has {science.shape}"
            raise FileDefectError(msg)
        return chosen[0]

    def _pixels(self, science: _Science, calibrate: Calibration) -> CcdPixels:
        image = read_plane(science.hdu)
        image *= np.float32(calibrate.electrons)
        bad = ~np.isfinite(image)
        if self._recipe.mask is not None:
            mask = self._plane_hdu(self._recipe.mask, science)
            bad |= read_mask(mask, self._recipe.mask.bits)
        subtracted = self._subtracted_sky(science, calibrate)
        saturated = np.zeros(image.shape, bool)
        if calibrate.saturation is not None:
            saturated = image >= np.float32(calibrate.saturation - subtracted)
            bad |= saturated
        background = self._background(science, calibrate, image, bad)
        if background is not None:
            image -= background
        weight = self._weight(science, calibrate, image, bad, background, subtracted)
        return CcdPixels(
            image=image, weight=np.where(bad, np.float32(0), weight), saturated=saturated
        )

    def _subtracted_sky(self, science: _Science, calibrate: Calibration) -> float:
        recipe = self._recipe.background
        if recipe.kind != "subtracted" or recipe.sky is None:
            return 0.0
        return calibrate.level(recipe.sky, science.facts, "sky")

    def _background(
        self, science: _Science, calibrate: Calibration, image: np.ndarray, bad: np.ndarray
    ) -> np.ndarray | None:
        recipe = self._recipe.background
        if isinstance(recipe, CardBackground):
            return np.asarray(calibrate.level(recipe.level, science.facts, "sky"), np.float32)
        if isinstance(recipe, BackgroundPlane):
            plane = read_plane(self._plane_hdu(recipe, science))
            return plane * np.float32(calibrate.electrons)
        if isinstance(recipe, MeshBackground):
            return mesh_background(image, bad=bad, recipe=recipe)
        return None

    def _weight(
        self,
        science: _Science,
        calibrate: Calibration,
        image: np.ndarray,
        bad: np.ndarray,
        background: np.ndarray | None,
        subtracted: float,
    ) -> np.ndarray:
        recipe = self._recipe
        if recipe.weight is not None:
            plane = read_plane(self._plane_hdu(recipe.weight, science))
            return inverse_variance(plane, recipe.weight.kind, calibrate.electrons)
        if background is None and subtracted == 0:
            noise = measured_noise(image, bad=bad)
            return np.full(image.shape, 1 / noise**2 if noise > 0 else 0, np.float32)
        read_noise = float(self._survey.instrument.detector.read_noise)
        if recipe.read_noise is not None:
            read_noise = science.facts.number(recipe.read_noise, "electron", "read noise")
        sky = subtracted if background is None else background
        return modelled_weight(sky, read_noise=read_noise, shape=image.shape)

    def _table(self, recipe: CatalogueRecipe, science: _Science) -> Table:
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
        science: _Science,
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

    def _wcs(self, science: _Science) -> CelestialWcs | NoWcsError:
        """The WCS of a CCD, or why it has none; the last one is kept."""
        place = science.path, science.index
        if self._last_wcs is None or self._last_wcs[0] != place:
            self._last_wcs = place, wcs_of(science.hdu.header, self._files.get(science.path))
        return self._last_wcs[1]

    def _sky_pixels(
        self, table: Table, recipe: CatalogueRecipe, science: _Science
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
        science: _Science,
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
        known = describe(table, recipe.columns, rows, origin=recipe.origin, calibrate=calibrate)
        if at is not None:
            known |= {"x": at[0][rows], "y": at[1][rows]}
        image, weight, full = cut(
            pixels, known["x"], known["y"], recipe.stamp_size, calibrate=calibrate
        )
        known["flags"] = known["flags"] | np.where(full, np.uint32(ObjectFlag.SATURATED), 0).astype(
            np.uint32
        )
        objects = Objects(
            image=image,
            weight=weight,
            n_not_selected=int((mine & ~keep).sum()),
            missing=choice.left_out(mine),
            **known,
        )
        return objects, SharedRows(catalogue=table.path, n_selected=int(keep.sum()), rows=rows)


def _is_shared(recipe: CatalogueRecipe) -> bool:
    """Whether one catalogue serves all CCDs of an exposure, and the WCS shares it out."""
    return recipe.positions == "sky" and recipe.columns.ccd is None and "{ccd}" not in recipe.path
