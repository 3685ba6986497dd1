"""SExtractor FITS_LDAC catalogues with VIGNET stamps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from psfscale.errors import InputError
from psfscale.ingest.events import FileRefusal
from psfscale.ingest.formats.calibrate import (
    border_noise,
    check_columns,
    describe,
    mask_saturated,
    with_source_noise,
)
from psfscale.ingest.formats.calibration import Calibration, calibration
from psfscale.ingest.formats.damaged import damaged_exposure
from psfscale.ingest.formats.facts import Facts, FileDefectError, damage, filename_groups
from psfscale.ingest.formats.fitsfile import FitsFiles, ldac_header
from psfscale.ingest.formats.reader import (
    CcdContent,
    ExposureFacts,
    FileScan,
    Piece,
    ccd_number,
    exposure_facts,
    known_ccd,
    unknown_ccd_message,
)
from psfscale.ingest.formats.select import Selection, selection
from psfscale.ingest.formats.tables import Table, fits_table
from psfscale.ingest.formats.wcs import reference_pixel, wcs_of
from psfscale.ingest.objects import Objects
from psfscale.survey.recipe import Column

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from psfscale.survey import Survey
    from psfscale.survey.recipe import LdacRecipe, NumberSource

_MASKED = -1e29
"""SExtractor writes -1e30 where a stamp has no pixel."""


class LdacReader:
    """One file a CCD, or several (LDAC_IMHEAD, LDAC_OBJECTS) pairs in a file."""

    def __init__(self, survey: Survey, recipe: LdacRecipe) -> None:
        self._survey = survey
        self._recipe = recipe
        self._files = FitsFiles()
        self._facts: tuple[Path, dict[int, Facts]] | None = None

    def close(self) -> None:
        """Let go of all files."""
        self._files.close()

    def exposure_of(self, path: Path) -> str | None:
        """Exposure id of a damaged file, as far as it still tells."""
        return damaged_exposure(path, self._recipe, ldac=True)

    def scan(self, path: Path) -> FileScan:
        """The CCDs of the file and how many objects each has."""
        pieces: list[Piece] = []
        refused: list[FileRefusal] = []
        for index, facts in self._pairs(path):
            exposure, ccd = None, None
            try:
                exposure = exposure_facts(self._survey, facts)
                ccd = self._ccd(facts)
                if ccd not in self._recipe.skip_ccds:
                    pieces.append(self._piece(path, index, facts, exposure=exposure, ccd=ccd))
            except InputError as error:
                name = self.exposure_of(path) if exposure is None else exposure.id
                refused.append(
                    FileRefusal(file=path, exposure=name, ccd=ccd, reason=damage(path, error))
                )
        return FileScan(pieces=tuple(pieces), refused=tuple(refused))

    def _piece(
        self, path: Path, index: int, facts: Facts, *, exposure: ExposureFacts, ccd: int
    ) -> Piece:
        if not known_ccd(self._survey, ccd):
            raise FileDefectError(unknown_ccd_message(self._survey, ccd))
        hdu = self._files.get(path)[index]
        table = fits_table(hdu, path)
        check_columns(table, self._recipe.stars, levels=self._levels())
        calibration(self._survey, facts, unit=table.units.get(self._recipe.stars.image))
        return Piece(
            path=path,
            exposure=exposure,
            ccd=ccd,
            index=index,
            counts={"star": int(self._selection(table).keep.sum())},
            stamp_shapes={"star": self._stamp_shape(hdu, path)},
        )

    def read(self, piece: Piece) -> CcdContent:
        """The stars of one LDAC_OBJECTS table."""
        facts = self._facts_of(piece)
        header = facts.headers[0]
        table = fits_table(self._files.get(piece.path)[piece.index], piece.path)
        return CcdContent(
            objects={"star": self._stars(table, facts)},
            reference_pixel=reference_pixel(header),
            wcs=wcs_of(header),
        )

    def _levels(self) -> list[str]:
        """Columns of the catalogue that hold levels."""
        sources = (self._recipe.sky, self._recipe.sky_noise)
        return [source.column for source in sources if source is not None and source.column]

    def _selection(self, table: Table) -> Selection:
        return selection(table, self._recipe.stars, levels=self._levels())

    def _stars(self, table: Table, facts: Facts) -> Objects:
        recipe = self._recipe.stars
        choice = self._selection(table)
        rows = np.flatnonzero(choice.keep)
        calibrate = calibration(self._survey, facts, unit=table.units.get(recipe.image))
        raw = table.raw(recipe.image)[rows].astype(np.float32)
        usable = np.isfinite(raw) & (raw > _MASKED)
        described = describe(table, recipe, rows, calibrate=calibrate)
        local = calibrate.around(described["x"], described["y"], (raw.shape[1], raw.shape[2]))
        image = np.where(usable | np.isnan(raw), raw, 0) * np.asarray(local.electrons, np.float32)
        image -= np.asarray(local.bias, np.float32)
        noise = self._sky_noise(table, rows, facts, local, image=image, usable=usable)
        with np.errstate(divide="ignore", invalid="ignore"):
            weight = np.where(usable, 1 / np.square(noise), 0).astype(np.float32)
        if calibrate.source_noise:
            weight = with_source_noise(weight, image)
        stars = Objects(
            image=image,
            weight=weight,
            n_not_selected=int((~choice.keep).sum()),
            missing=choice.left_out(np.ones(table.n_rows, bool)),
            **described,
        )
        sky = self._level(self._recipe.sky, table, rows, facts, local, "sky")
        return mask_saturated(stars, local.saturation, sky=sky)

    def _sky_noise(
        self,
        table: Table,
        rows: np.ndarray,
        facts: Facts,
        calibrate: Calibration,
        *,
        image: np.ndarray,
        usable: np.ndarray,
    ) -> np.ndarray:
        """(star | 1, y | 1, x | 1) rms of the sky in a pixel [electron]."""
        if self._recipe.sky_noise is None:
            return border_noise(image, usable=usable, section=calibrate.section)
        return self._level(self._recipe.sky_noise, table, rows, facts, calibrate, "sky noise")

    def _level(
        self,
        source: NumberSource | None,
        table: Table,
        rows: np.ndarray,
        facts: Facts,
        calibrate: Calibration,
        what: str,
    ) -> np.ndarray:
        """(star | 1, y | 1, x | 1) a level from a card, a column or the recipe [electron]."""
        if source is None:
            return np.zeros((1, 1, 1))
        if source.column is not None:
            values: np.ndarray = table.numbers(Column(name=(source.column,)))[rows]
            return values[:, None, None] * calibrate.of_unit(source.unit)
        return np.asarray(calibrate.level(source, facts, what))

    def _ccd(self, facts: Facts) -> int:
        if self._recipe.ccd is None:
            return self._survey.instrument.focal_plane.first_ccd
        return ccd_number(facts, facts.text(self._recipe.ccd, "CCD id"))

    def _facts_of(self, piece: Piece) -> Facts:
        """Facts of a CCD; those of the last file are kept."""
        if self._facts is None or self._facts[0] != piece.path:
            self._facts = piece.path, dict(self._pairs(piece.path))
        return self._facts[1][piece.index]

    def _pairs(self, path: Path) -> Iterator[tuple[int, Facts]]:
        """Index of every LDAC_OBJECTS table, with the facts of its LDAC_IMHEAD."""
        groups = filename_groups(path, self._recipe.filename)
        header: Any = fits.Header()
        found = False
        for index, hdu in enumerate(self._files.get(path)):
            if hdu.name == "LDAC_IMHEAD":
                header = ldac_header(hdu)
            elif hdu.name == "LDAC_OBJECTS":
                found = True
                yield index, Facts(path=path, headers=(header,), groups=groups)
                header = fits.Header()
        if not found:
            msg = f"{path} has no LDAC_OBJECTS table; is it a FITS_LDAC catalogue?"
            raise FileDefectError(msg)

    def _stamp_shape(self, hdu: Any, path: Path) -> tuple[int, int]:
        name = self._recipe.stars.image
        if name not in hdu.columns.names:
            msg = f"{path} has no column {name!r}; it has {', '.join(hdu.columns.names)}"
            raise InputError(msg)
        shape = hdu.data[name].shape[1:]
        if len(shape) != 2:
            msg = f"{path}: column {name!r} has cells of shape {shape}, expected stamps (y, x)"
            raise InputError(msg)
        return int(shape[0]), int(shape[1])
