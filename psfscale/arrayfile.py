"""Single arrays that a user keeps in a file: ``.npy``, or the first image of a FITS file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from psfscale.errors import InputError

__all__ = ["read_array"]


def read_array(path: Path | str) -> np.ndarray:
    """The array of a ``.npy`` file, or of the first HDU of a FITS file that holds one.

    Raises
    ------
    InputError
        The file is missing, of another kind, damaged, or holds no array.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"no such file: {path}"
        raise InputError(msg)
    try:
        if path.suffix == ".npy":
            return np.asarray(np.load(path, allow_pickle=False))
        return _first_image(path)
    except (OSError, ValueError, EOFError) as error:
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
