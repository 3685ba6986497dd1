"""Single arrays that a user keeps in a file: ``.npy``, or the first image of a FITS file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from psfscale.errors import InputError
from psfscale.files import require_file, require_place, write_whole

__all__ = ["dump_array", "read_array", "write_array"]


def read_array(path: Path | str) -> np.ndarray:
    """The array of a ``.npy`` file, or of the first HDU of a FITS file that holds one.

    Raises
    ------
    InputError
        The file is missing, of another kind, damaged, or holds no array.
    """
    path = Path(path)
    require_file(path)
    try:
        if path.suffix == ".npy":
            return np.asarray(np.load(path, allow_pickle=False))
        return _first_image(path)
    except (OSError, ValueError, EOFError, TypeError, KeyError) as error:
        msg = f"{path} cannot be read as npy or FITS: {error}"
        raise InputError(msg) from error


def _first_image(path: Path) -> np.ndarray:
    from astropy.io import fits

    with fits.open(path, memmap=False) as hdus:
        for hdu in hdus:
            if hdu.is_image and hdu.data is not None:
                return np.array(hdu.data, dtype=hdu.data.dtype.newbyteorder("="))
    msg = f"{path} has no image with data"
    raise InputError(msg)


def write_array(path: Path | str, array: np.ndarray) -> None:
    """Write an array as ``.npy`` or ``.fits``, by the name's ending, whole or not at all.

    Raises
    ------
    InputError
        The name ends otherwise, or its folder does not exist.
    """
    path = Path(path)
    require_place(path, suffixes=(".npy", ".fits"))
    with write_whole(path) as partial:
        dump_array(partial, array, path.suffix)


def dump_array(path: Path, array: np.ndarray, suffix: str) -> None:
    """Write an array to a file of any name, in the format of a suffix: ``.npy`` or ``.fits``."""
    with path.open("wb") as file:
        if suffix == ".npy":
            np.save(file, array)
        else:
            from astropy.io import fits

            fits.PrimaryHDU(array).writeto(file)
