"""What a damaged file still tells: to which exposure it belongs, so that this is not whole."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from astropy.io import fits

from psfscale.errors import InputError
from psfscale.ingest.formats.facts import Facts, filename_groups
from psfscale.ingest.formats.fitsfile import ldac_header

if TYPE_CHECKING:
    from pathlib import Path

    from psfscale.survey.recipe import ImagesRecipe, LdacRecipe


def damaged_exposure(
    path: Path, recipe: LdacRecipe | ImagesRecipe, *, ldac: bool = False
) -> str | None:
    """Exposure id of a damaged FITS file, from what can be read of it; None if nothing can."""
    try:
        groups = filename_groups(path, recipe.filename)
    except InputError:
        groups = {}
    headers = _headers(path, ldac=ldac)
    try:
        return Facts(path=path, headers=headers, groups=groups).text(recipe.exposure, "exposure")
    except InputError:
        return None


def _headers(path: Path, *, ldac: bool) -> tuple[fits.Header, ...]:
    found: list[fits.Header] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(path, lazy_load_hdus=True) as hdus:
                for hdu in hdus:
                    found.append(hdu.header)
                    if ldac and hdu.name == "LDAC_IMHEAD":
                        found.append(ldac_header(hdu))
    except Exception:  # noqa: BLE001  a damaged file fails in any way; what came before counts
        return tuple(found)
    return tuple(found)
