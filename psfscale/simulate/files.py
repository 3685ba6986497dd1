"""What a simulated survey leaves on disk: FITS images, catalogues and truth.

A CCD's extensions are written to part files where it is drawn; an exposure's file is its
primary header followed by the bytes of its parts, so no process ever holds an exposure.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from astropy.io import fits
from astropy.table import Column, Table

from psfscale.files import write_whole
from psfscale.simulate.ccd import (
    FLAG_SATURATED,
    FLAG_TRUNCATED,
    DrawnCcd,
    ObjectTables,
    require_recipe,
)
from psfscale.simulate.detector import MaskBit
from psfscale.simulate.wcs import DrawnPointing, pointing, tangent_plane
from psfscale.survey.quantity import WITH_SOURCES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from psfscale.survey import Survey
    from psfscale.survey.simulation import SkyRecipe

IMAGES, CATALOGUES, TRUTH = "images", "catalogues", "truth"
PARTS = ".parts"
"""Folder of the CCDs of exposures that are not whole yet; gone when the drawing ends."""

_UNITS = {
    "X": "pixel",
    "Y": "pixel",
    "RA": "deg",
    "DEC": "deg",
    "FLUX": "adu",
    "FIELD_X": "mm",
    "FIELD_Y": "mm",
    "ZERNIKES": "um",
    "HALF_LIGHT_RADIUS": "arcsec",
}
_PIXEL_ORIGIN = ("PIXORIG", 1, "X, Y of the centre of the first pixel")


def exposure_id(survey: Survey, exposure: int) -> str:
    """Name of an exposure, as in its header and file names."""
    return f"{survey.name}_{exposure + 1:06d}"


def write_survey_file(survey: Survey, path: Path) -> None:
    """Write a survey file that loads as `survey`, each number with its source."""
    tree = survey.model_dump(mode="json", context=WITH_SOURCES, exclude_unset=True)
    path.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8")


def part_path(output: Path, kind: str, name: str, ccd: int) -> Path:
    """Where the extensions of one CCD wait for the other CCDs of their exposure."""
    return output / PARTS / f"{kind}_{name}_{ccd}.fits"


def write_parts(output: Path, survey: Survey, drawn: DrawnCcd, *, exposure: int, ccd: int) -> None:
    """Write the extensions of a CCD's image and truth."""
    name = exposure_id(survey, exposure)
    _write(part_path(output, IMAGES, name, ccd), _image_hdus(survey, drawn, exposure, ccd))
    _write(part_path(output, TRUTH, name, ccd), _truth_hdus(survey, drawn, ccd))


def write_exposure(
    output: Path,
    survey: Survey,
    *,
    exposure: int,
    ccds: Sequence[int],
    catalogues: dict[str, list[dict[str, np.ndarray]]],
) -> None:
    """Join the parts of an exposure; every file appears whole or not at all.

    Parameters
    ----------
    output : folder of the simulated survey
    survey : that is drawn
    exposure : index, from 0
    ccds : ids of the CCDs, in the order of the file
    catalogues : columns of each CCD, under ``stars`` and ``galaxies``
    """
    recipe, name = require_recipe(survey), exposure_id(survey, exposure)
    for kind, tables in catalogues.items():
        path = output / CATALOGUES / f"{name}_{kind}.fits"
        table = {key: np.concatenate([part[key] for part in tables]) for key in tables[0]}
        hdu = _table_hdu(table, "CATALOGUE", None)
        _describe_catalogue(hdu.header, name, recipe)
        _write(path, [hdu])
    header = _primary(survey, recipe, pointing(recipe, exposure), name)
    for kind in (TRUTH, IMAGES):  # the image last: where it lies, the rest lies too
        parts = [part_path(output, kind, name, ccd) for ccd in ccds]
        _join(output / kind / f"{name}.fits", header, parts)


def _primary(survey: Survey, recipe: SkyRecipe, at: DrawnPointing, name: str) -> fits.Header:
    header: fits.Header = fits.PrimaryHDU().header
    header["EXTEND"] = True
    header["EXPOSURE"] = (name, "exposure id")
    header["INSTRUME"] = (survey.name, "survey file the exposure was drawn from")
    header["MJD-OBS"] = (at.mjd, "[d] start of the exposure")
    header["FILTER"] = recipe.pointing.filter
    header["RA"] = (at.ra, "[deg] right ascension of the optical axis")
    header["DEC"] = (at.dec, "[deg] declination of the optical axis")
    header["EXPTIME"] = (float(recipe.pointing.exposure_time), "[s] exposure time")
    header["SEED"] = (recipe.seed, "root of every random number")
    return header


def _image_hdus(survey: Survey, drawn: DrawnCcd, exposure: int, ccd: int) -> list[Any]:
    detector, recipe = survey.instrument.detector, require_recipe(survey)
    header = tangent_plane(survey, pointing(recipe, exposure), ccd).to_header()
    header["CCDNUM"] = (ccd, "CCD id")
    header["GAIN"] = (float(detector.gain), "[e/adu] electrons per unit of the image")
    header["RDNOISE"] = (float(detector.read_noise), "[e] read noise, rms")
    if detector.saturation is not None:
        header["SATURATE"] = (detector.saturation / detector.gain, "[adu] full well")
    header["SKY"] = (recipe.sky / detector.gain, "[adu] sky in a pixel, in the image")
    science, weight, mask = header.copy(), header.copy(), header.copy()
    science["BUNIT"] = "adu"
    weight["BUNIT"] = ("adu-2", "inverse variance of sky and readout")
    for bit in MaskBit:
        mask[f"MSKBIT{bit.bit_length() - 1}"] = (str(bit.name).lower(), f"value {int(bit)}")
    planes = (
        ("SCI", science, drawn.image),
        ("WHT", weight, drawn.weight),
        ("MSK", mask, drawn.mask),
    )
    return [_numbered(fits.ImageHDU(data, head), name, ccd) for name, head, data in planes]


def _truth_hdus(survey: Survey, drawn: DrawnCcd, ccd: int) -> list[Any]:
    recipe = require_recipe(survey)
    hdus = []
    for kind, tables in (("STARS", drawn.stars), ("GALAXIES", drawn.galaxies)):
        hdu = _table_hdu(tables.truth, kind, ccd)
        hdu.header["NOLL1"] = (4, "Noll index of the first of ZERNIKES")
        hdu.header["COMMENT"] = "E1, E2: distortion before the PSF, relative to the pixel axes"
        hdu.header["COMMENT"] = "E1_SKY, E2_SKY: the same on the sky, u towards west, v north"
        hdus.append(hdu)
        if tables.psf is not None and len(tables.psf):  # FITS has no cube of no planes
            hdus.append(_psf_hdu(tables, f"PSF_{kind}", ccd, recipe))
    return hdus


def _psf_hdu(tables: ObjectTables, name: str, ccd: int, recipe: SkyRecipe) -> fits.ImageHDU:
    hdu = _numbered(fits.ImageHDU(tables.psf), name, ccd)
    centre = recipe.truth.size // 2
    hdu.header["OVERSAMP"] = (recipe.truth.oversampling, "PSF pixels per CCD pixel")
    hdu.header["CENTRE"] = (centre, "0-based index of the windowed centroid")
    hdu.header["COMMENT"] = "Effective PSF (CCD pixel included), unit sum; plane i is row i."
    return hdu


def _table_hdu(columns: dict[str, np.ndarray], name: str, ccd: int | None) -> fits.BinTableHDU:
    table = Table(
        [Column(values, name=key, unit=_UNITS.get(key)) for key, values in columns.items()]
    )
    hdu = fits.BinTableHDU(table)
    hdu.header.set(*_PIXEL_ORIGIN)
    return _numbered(hdu, name, ccd)


def _describe_catalogue(header: fits.Header, name: str, recipe: SkyRecipe) -> None:
    header["EXPOSURE"] = (name, "exposure id")
    header["POSSCAT"] = (float(recipe.catalogue.position_scatter), "[pixel] rms scatter of X, of Y")
    header["POSDEC"] = (recipe.catalogue.position_decimals, "decimals that X and Y keep")
    header["FLAGSAT"] = (FLAG_SATURATED, "bit of FLAGS: saturated pixels in the core")
    header["FLAGCUT"] = (FLAG_TRUNCATED, "bit of FLAGS: core cut by the edge of the CCD")


def _numbered(hdu: Any, name: str, version: int | None) -> Any:
    hdu.header["EXTNAME"] = name
    if version is not None:
        hdu.header["EXTVER"] = version
    return hdu


def _write(path: Path, hdus: list[Any]) -> None:
    with write_whole(path) as partial:
        fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(partial, overwrite=True)


def _join(path: Path, header: fits.Header, parts: Sequence[Path]) -> None:
    with write_whole(path, sync=True) as partial, partial.open("wb") as whole:
        whole.write(header.tostring().encode("ascii"))
        for part in parts:
            with part.open("rb") as extensions:
                extensions.seek(_primary_bytes(part))
                shutil.copyfileobj(extensions, whole)
    for part in parts:
        part.unlink()


def _primary_bytes(part: Path) -> int:
    """Length of a file's primary header, where its first extension begins."""
    with fits.open(part) as hdus:
        return int(hdus.fileinfo(1)["hdrLoc"])
