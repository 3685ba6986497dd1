"""Star stacks and PSF stacks as ``.npz`` files: the way in and out without a survey.

``stars.npz`` holds ``image`` (star, y, x), ``x``, ``y`` (star), and ``weight``
(inverse variance, star, y, x) or ``sigma`` (star) or neither; optionally ``sed``
(star, wavelength) with ``wavelength`` [µm]. ``at.npz`` holds ``x``, ``y`` and optionally
``sed``, ``wavelength``. ``psf.npz`` holds ``psf`` (object, y, x), each of unit sum with
its windowed centroid on index ``n // 2`` of both axes, and ``x``, ``y``.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.stats import mad_std

from psfscale.arrays import FieldPoints, StarBatch
from psfscale.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float


def read_stars(path: Path | str) -> StarBatch:
    """Read a star stack.

    Weights come from ``weight``, else from ``sigma``, else from the noise measured on the
    border of each stamp; without ``weight``, pixels that are not finite count as masked.

    Raises
    ------
    InputError
        The file is missing or not an npz, an array is missing, of the wrong shape, or
        holds values that a `StarBatch` refuses.
    """
    arrays = read_arrays(path, required=("image", "x", "y"))
    image = _floats(arrays["image"], "image", np.float32)
    if image.ndim != 3:
        msg = f"{path}: image has shape {image.shape}, expected (star, y, x)"
        raise InputError(msg)
    weight = _weights(arrays, image, path)
    try:
        return StarBatch(
            image=np.where(weight > 0, image, 0) if "weight" not in arrays else image,
            weight=weight,
            x=_floats(arrays["x"], "x", np.float64),
            y=_floats(arrays["y"], "y", np.float64),
            sed=_optional(arrays, "sed"),
            wavelength=_optional(arrays, "wavelength"),
        )
    except InputError as error:
        msg = f"{path}: {error}"
        raise InputError(msg) from error


def read_points(path: Path | str) -> FieldPoints:
    """Read where PSFs are wanted.

    Raises
    ------
    InputError
        The file is missing or not an npz, or ``x``, ``y`` are missing or disagree.
    """
    arrays = read_arrays(path, required=("x", "y"))
    try:
        return FieldPoints(
            x=_floats(arrays["x"], "x", np.float64),
            y=_floats(arrays["y"], "y", np.float64),
            sed=_optional(arrays, "sed"),
            wavelength=_optional(arrays, "wavelength"),
        )
    except InputError as error:
        msg = f"{path}: {error}"
        raise InputError(msg) from error


def write_psfs(path: Path | str, psf: Float[np.ndarray, "object y x"], *, at: FieldPoints) -> None:
    """Write PSFs and their positions, whole or not at all."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, psf=psf, x=at.x, y=at.y)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def border_sigma(image: Float[np.ndarray, "star y x"]) -> Float[np.ndarray, " star"]:
    """Noise of each stamp: scaled median absolute deviation of its outermost pixels.

    The border is an eighth of the stamp wide; pixels that are not finite are left out.
    Stars fainter at the border than the noise leave it unbiased.
    """
    ny, nx = image.shape[1:]
    border = np.ones((ny, nx), dtype=bool)
    by, bx = max(ny // 8, 1), max(nx // 8, 1)
    border[by : ny - by, bx : nx - bx] = False
    edge = np.where(np.isfinite(image), image, np.nan)[:, border]
    return np.asarray(mad_std(edge, axis=1, ignore_nan=True))


def read_arrays(path: Path | str, *, required: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The arrays of an npz, by name.

    Raises
    ------
    InputError
        The file is missing, damaged or not an npz, or an array is missing.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"no such file: {path}"
        raise InputError(msg)
    if not zipfile.is_zipfile(path):
        needed = f"; one with {', '.join(required)} is needed" if required else ""
        msg = f"{path} is not an .npz file{needed}"
        raise InputError(msg)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        msg = f"{path} cannot be read: {error}"
        raise InputError(msg) from error
    missing = [name for name in required if name not in arrays]
    if missing:
        msg = f"{path} lacks {', '.join(missing)}; it holds {', '.join(sorted(arrays))}"
        raise InputError(msg)
    return arrays


def _floats(array: np.ndarray, name: str, dtype: type[np.floating]) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        msg = f"{name} holds {array.dtype}, numbers are needed"
        raise InputError(msg)
    return array.astype(dtype)


def _optional(arrays: dict[str, np.ndarray], name: str) -> np.ndarray | None:
    return _floats(arrays[name], name, np.float32) if name in arrays else None


def _weights(
    arrays: dict[str, np.ndarray], image: Float[np.ndarray, "star y x"], path: Path | str
) -> Float[np.ndarray, "star y x"]:
    if "weight" in arrays:
        return _floats(arrays["weight"], "weight", np.float32)
    finite = np.isfinite(image)
    empty = np.flatnonzero(~finite.any(axis=(1, 2)))
    if empty.size:
        msg = f"{path}: {empty.size} stars hold no finite pixel (first: {empty[:5].tolist()})"
        raise InputError(msg)
    sigma = _sigma(arrays, image, path)
    return np.asarray(finite / sigma[:, None, None] ** 2, dtype=np.float32)


def _sigma(
    arrays: dict[str, np.ndarray], image: Float[np.ndarray, "star y x"], path: Path | str
) -> Float[np.ndarray, " star"]:
    if "sigma" not in arrays:
        sigma = border_sigma(image)
        flat = np.flatnonzero(~(sigma > 0))
        if flat.size:
            msg = (
                f"{path}: the noise of {flat.size} stars cannot be measured on their borders "
                f"(first: {flat[:5].tolist()}); give sigma or weight"
            )
            raise InputError(msg)
        return sigma
    sigma = _floats(arrays["sigma"], "sigma", np.float64)
    if sigma.shape not in {(), (len(image),)}:
        msg = f"{path}: sigma has shape {sigma.shape}, expected ({len(image)},)"
        raise InputError(msg)
    if not (np.isfinite(sigma).all() and (sigma > 0).all()):
        msg = f"{path}: sigma must be finite and positive"
        raise InputError(msg)
    return np.broadcast_to(sigma, (len(image),))
