"""Several arrays of the same objects in one file: npz, FITS or zarr, by the name's ending.

In FITS one array is the first image, other images follow under their names, and numbers of objects
are the table ``OBJECTS``. In zarr the root says by its attribute ``kind`` what it holds.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from psfscale.errors import InputError, StoreError
from psfscale.files import require_new, require_place, write_whole, write_whole_folder
from psfscale.store.versions import METADATA

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr

__all__ = ["GROUP_FORMATS", "require_group_place", "write_group"]

GROUP_FORMATS = (".npz", ".fits", ".zarr")
"""Endings of a file of several arrays; each is a format."""


def require_group_place(path: Path, *, kind: str, overwrite: bool) -> None:
    """Refuse, before the work, a path that arrays cannot be written to after it.

    Parameters
    ----------
    path : of a file or a zarr group
    kind : of the group; no other is replaced
    overwrite : whether what lies there may be replaced

    Raises
    ------
    InputError
        A folder or a device has the name, or its folder is missing or may not be written.
    StoreError
        Something lies there and `overwrite` is False, or it is another zarr store.
    """
    if path.suffix != ".zarr":
        require_place(path)
    elif path.exists() and _kind(path) != kind:
        msg = f"{path} holds no {kind}: --overwrite replaces {kind} alone, remove it yourself"
        raise StoreError(msg)
    require_new(path, overwrite=overwrite)


def _kind(path: Path) -> str | None:
    """Return the kind that a zarr group states; None where it states none."""
    try:
        kind = json.loads((path / METADATA).read_bytes())["attributes"]["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(kind)


def write_group(path: Path, group: xr.Dataset, *, image: str, kind: str) -> None:
    """Write arrays whole or not at all; what lies at `path` is replaced.

    Parameters
    ----------
    path : whose ending is the format
    group : arrays; those with the one dim ``object`` are numbers of objects
    image : name of the array that is the first image of a FITS file
    kind : that the root of a zarr group says

    Raises
    ------
    InputError
        The path has another ending.
    """
    if path.suffix not in GROUP_FORMATS:
        msg = f"{path} ends in none of {', '.join(GROUP_FORMATS)}"
        raise InputError(msg)
    if path.suffix == ".zarr":
        with write_whole_folder(path) as partial:
            whole = group.assign_attrs(kind=kind)
            whole.to_zarr(partial, zarr_format=3, consolidated=False)
        return
    arrays: dict[str, Any] = {str(name): v.values for name, v in group.variables.items()}
    with write_whole(path) as partial, partial.open("wb") as file:
        if path.suffix == ".npz":
            np.savez(file, allow_pickle=False, **arrays)
        else:
            _write_fits(file, arrays, image)


def _write_fits(file: Any, arrays: dict[str, np.ndarray], image: str) -> None:
    from astropy.io import fits
    from astropy.table import Table

    table = {name: values for name, values in arrays.items() if values.ndim == 1}
    images = [
        fits.ImageHDU(values, name=name.upper())
        for name, values in arrays.items()
        if name != image and name not in table
    ]
    objects = fits.BinTableHDU(Table(table), name="OBJECTS")
    fits.HDUList([fits.PrimaryHDU(arrays[image]), *images, objects]).writeto(file)
