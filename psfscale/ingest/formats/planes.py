"""The planes of a CCD beside each other: science image, weight, mask, background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from psfscale.ingest.formats.facts import Facts, FileDefectError, sibling
from psfscale.ingest.formats.fitsfile import FitsFiles, image_hdus, read_mask, read_plane
from psfscale.ingest.formats.pixels import (
    CcdPixels,
    inverse_variance,
    measured_weight,
    mesh_background,
    modelled_weight,
    require_agreement,
)
from psfscale.survey.recipe import BackgroundPlane, CardBackground, MeshBackground

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from psfscale.ingest.formats.calibration import Calibration
    from psfscale.ingest.formats.reader import ExposureFacts
    from psfscale.ingest.formats.units import Level
    from psfscale.survey import Survey
    from psfscale.survey.recipe import ImagesRecipe, Plane


@dataclass(frozen=True, kw_only=True)
class Science:
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
        """Pixels (y, x)."""
        return int(self.hdu.header["NAXIS2"]), int(self.hdu.header["NAXIS1"])


class Planes:
    """Reads the planes of CCDs by a recipe."""

    def __init__(self, survey: Survey, recipe: ImagesRecipe, files: FitsFiles) -> None:
        self._survey, self._recipe, self._files = survey, recipe, files

    def _all(self) -> Iterator[Plane]:
        background = self._recipe.background
        for plane in (self._recipe.weight, self._recipe.mask):
            if plane is not None:
                yield plane
        if isinstance(background, BackgroundPlane):
            yield background

    def _hdu(self, plane: Plane, science: Science) -> Any:
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

    def require(self, science: Science) -> None:
        """Raise where a plane that the recipe names is not there.

        Raises
        ------
        FileDefectError
            There is no such image, or it has another shape.
        """
        for plane in self._all():
            self._hdu(plane, science)

    def pixels(self, science: Science, calibrate: Calibration) -> CcdPixels:
        """Return the pixels of a CCD, the background subtracted, with their weights."""
        image = read_plane(science.hdu)
        image *= np.asarray(calibrate.electrons, np.float32)
        image -= np.asarray(calibrate.bias, np.float32)
        bad = ~np.isfinite(image)
        if self._recipe.mask is not None:
            mask = self._hdu(self._recipe.mask, science)
            bad |= read_mask(mask, self._recipe.mask.bits)
        subtracted = self._subtracted_sky(science, calibrate)
        saturated = np.zeros(image.shape, bool)
        if calibrate.saturation is not None:
            saturated = image >= np.asarray(calibrate.saturation - subtracted, np.float32)
            bad |= saturated
        background = self._background(science, calibrate, image, bad)
        if background is not None:
            image -= background
        weight = self._weight(science, calibrate, image, bad, background, subtracted)
        return CcdPixels(
            image=image,
            weight=np.where(bad, np.float32(0), weight),
            saturated=saturated,
            full=_level(calibrate.saturation, subtracted, background),
        )

    def _subtracted_sky(self, science: Science, calibrate: Calibration) -> Level:
        recipe = self._recipe.background
        if recipe.kind != "subtracted" or recipe.sky is None:
            return 0.0
        return calibrate.level(recipe.sky, science.facts, "sky")

    def _background(
        self, science: Science, calibrate: Calibration, image: np.ndarray, bad: np.ndarray
    ) -> np.ndarray | None:
        recipe = self._recipe.background
        if isinstance(recipe, CardBackground):
            return np.asarray(calibrate.level(recipe.level, science.facts, "sky"), np.float32)
        if isinstance(recipe, BackgroundPlane):
            plane = read_plane(self._hdu(recipe, science))
            return plane * np.asarray(calibrate.electrons, np.float32)
        if isinstance(recipe, MeshBackground):
            return mesh_background(image, bad=bad, recipe=recipe)
        return None

    def _weight(
        self,
        science: Science,
        calibrate: Calibration,
        image: np.ndarray,
        bad: np.ndarray,
        background: np.ndarray | None,
        subtracted: Level,
    ) -> np.ndarray:
        recipe = self._recipe
        if recipe.weight is not None:
            plane = read_plane(self._hdu(recipe.weight, science))
            if not recipe.weight.trusted:
                sky = np.where(bad, np.float32(np.nan), image)
                sky /= np.asarray(calibrate.electrons, np.float32)
                name = f"{science.path}: the weights of CCD {science.ccd}"
                require_agreement(sky, plane, kind=recipe.weight.kind, name=name)
            return inverse_variance(plane, recipe.weight.kind, calibrate.electrons)
        if background is None and not np.any(subtracted):
            return measured_weight(image, bad=bad, section=calibrate.section)
        level = subtracted if background is None else background
        return modelled_weight(level, read_noise=calibrate.read_noise, shape=image.shape)


def _level(saturation: Level | None, *subtracted: Level | None) -> Level | None:
    """Return what is left of the saturation after what was subtracted from the image."""
    if saturation is None:
        return None
    return saturation - sum(level for level in subtracted if level is not None)
