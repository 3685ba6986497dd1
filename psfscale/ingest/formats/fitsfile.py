"""FITS files, opened lazily and checked for being whole."""

from __future__ import annotations

import re
import warnings
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning

from psfscale.ingest.formats.facts import FileDefectError, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BROKEN = re.compile("truncated|corrupted|Error validating header", re.IGNORECASE)
DAMAGED = (
    OSError, ValueError, EOFError, KeyError, AttributeError, TypeError, IndexError,
    fits.VerifyError,
)  # fmt: skip
"""What astropy raises on files that are damaged."""
_OPEN_FILES = 16
_CARD_LENGTH = 80
FITS_SUFFIXES = (".fits", ".fit", ".fts", ".fz", ".gz", ".ldac", ".cat")


class FitsFiles:
    """The FITS files in use, at most a few open at a time."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, fits.HDUList] = OrderedDict()

    def get(self, path: Path) -> fits.HDUList:
        """The open file; all its headers are read and its length is checked once.

        Raises
        ------
        FileDefectError
            The file is missing, not FITS, or shorter than its headers say.
        """
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        hdus = open_fits(path)
        self._open[path] = hdus
        while len(self._open) > _OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        return hdus

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._open.popitem()[1].close()


def open_fits(path: Path) -> fits.HDUList:
    """Open a FITS file, lazily in its data, and check that it is whole.

    Raises
    ------
    FileDefectError
        The file is missing, not FITS, or shorter than its headers say.
    """
    hdus = None
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", AstropyWarning)
            # Unscaled: astropy forgets BLANK of unsigned images, whose values it turns itself.
            hdus = fits.open(path, lazy_load_hdus=True, do_not_scale_image_data=True)
            n_hdus = len(hdus)
            _require_length(path, hdus)
        _require_sound(path, [str(item.message) for item in caught], hdus, n_hdus)
    except FileNotFoundError as error:
        msg = f"{path}: no such file"
        raise FileDefectError(msg) from error
    except DAMAGED as error:
        if hdus is not None:
            hdus.close()
        if isinstance(error, FileDefectError):
            raise
        msg = f"{path} cannot be read as FITS: {one_line(error)}"
        raise FileDefectError(msg) from error
    return hdus


def _require_length(path: Path, hdus: fits.HDUList) -> None:
    if path.suffix in (".gz", ".bz2", ".xz"):
        return  # the length on disk says nothing; a short stream fails when it is read
    info = hdus.fileinfo(len(hdus) - 1)
    wanted, found = info["datLoc"] + info["datSpan"], path.stat().st_size
    if found < wanted:
        msg = f"{path} is truncated: {found} bytes, its headers tell of {wanted}"
        raise FileDefectError(msg)


def _require_sound(path: Path, messages: list[str], hdus: fits.HDUList, n_hdus: int) -> None:
    broken = [text for text in messages if _BROKEN.search(text)]
    if broken:
        msg = f"{path} is broken: {' '.join(broken[0].split())}"
        raise FileDefectError(msg)
    promised = hdus[0].header.get("NEXTEND", n_hdus - 1)
    if promised > n_hdus - 1:
        msg = f"{path} is truncated: {n_hdus - 1} extensions, NEXTEND tells of {promised}"
        raise FileDefectError(msg)


def image_hdus(hdus: fits.HDUList) -> Iterator[tuple[int, Any]]:
    """Index and HDU of every 2-D image, compressed ones included."""
    for index, hdu in enumerate(hdus):
        if getattr(hdu, "is_image", False) and hdu.header.get("NAXIS") == 2:
            yield index, hdu


def read_plane(hdu: Any) -> np.ndarray:
    """Return the pixels (y, x) of an image HDU as float32; NaN where they are BLANK.

    Raises
    ------
    FileDefectError
        The pixels cannot be read.
    """
    stored, undefined = _stored(hdu)
    scale, zero = _scale(hdu)
    plane = stored.astype(
        np.float64 if stored.dtype.kind in "iu" else stored.dtype.newbyteorder("=")
    )
    if (scale, zero) != (1, 0):
        plane = plane * scale + zero
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and masked
        plane = plane.astype(np.float32)
    plane[undefined] = np.nan
    return plane


def read_mask(hdu: Any, bits: int | None) -> np.ndarray:
    """Return (y, x) True where a mask has one of `bits` set (any, if None) or is not defined.

    Raises
    ------
    FileDefectError
        The pixels cannot be read, or bits are wanted of numbers that are not whole.
    """
    stored, undefined = _stored(hdu)
    scale, zero = _scale(hdu)
    undefined = undefined | ~np.isfinite(stored)
    if bits is None:
        values = stored if (scale, zero) == (1, 0) else stored * float(scale) + zero
        return np.asarray((values != 0) | undefined)
    whole = np.where(undefined, 0, stored)
    if not (
        float(scale).is_integer() and float(zero).is_integer() and (whole == np.rint(whole)).all()
    ):
        msg = f"the mask of HDU {hdu.name!r} does not hold whole numbers, whose bits are wanted"
        raise FileDefectError(msg)
    values = whole.astype(np.int64) * int(scale) + int(zero)
    return np.asarray(((values & bits) != 0) | undefined)


def _stored(hdu: Any) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of an image as they are stored, a copy, and where they are undefined."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            stored = np.array(hdu.data)
            del hdu.data  # nothing stays cached in the HDU
    except (*DAMAGED, RuntimeError) as error:
        msg = f"the pixels of HDU {hdu.name!r} cannot be read: {one_line(error)}"
        raise FileDefectError(msg) from error
    blank = hdu.header.get("BLANK", hdu.header.get("ZBLANK"))
    if blank is None or stored.dtype.kind not in "iu":
        return stored, np.isnan(stored) if stored.dtype.kind == "f" else np.zeros(
            stored.shape, bool
        )
    if isinstance(blank, bool) or not isinstance(blank, (int, float)):
        msg = f"card BLANK of HDU {hdu.name!r} says {blank!r}, expected a whole number"
        raise FileDefectError(msg)
    return stored, stored == blank


def _scale(hdu: Any) -> tuple[float, float]:
    """BSCALE and BZERO."""
    found = [hdu.header.get(name, default) for name, default in (("BSCALE", 1), ("BZERO", 0))]
    for name, value in zip(("BSCALE", "BZERO"), found, strict=True):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            msg = f"card {name} of HDU {hdu.name!r} says {value!r}, expected a number"
            raise FileDefectError(msg)
    return found[0], found[1]


def ldac_header(hdu: Any) -> fits.Header:
    """Return the image header that an LDAC_IMHEAD table holds.

    Its cards stand in one row, as one text or as a list of cards, or a row a card.

    Raises
    ------
    FileDefectError
        The table is empty, or its text is no header.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            texts = [str(text) for text in np.ravel(hdu.data.field(0))]
            cards = [text.ljust(-(-len(text) // _CARD_LENGTH) * _CARD_LENGTH) for text in texts]
            header = fits.Header.fromstring("".join(cards))
    except DAMAGED as error:
        msg = f"the header in {hdu.name} cannot be read: {one_line(error)}"
        raise FileDefectError(msg) from error
    if not len(header):
        msg = f"{hdu.name} holds no header cards"
        raise FileDefectError(msg)
    return header
