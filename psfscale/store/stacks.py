"""Star stacks and PSF stacks as files: the way in and out without a survey.

``stars.npz`` holds ``image`` (star, y, x), ``x``, ``y`` (star), and ``weight``
(inverse variance, star, y, x) or ``sigma`` (star) or neither; optionally ``sed``
(star, wavelength) with ``wavelength`` [µm]. ``at.npz`` holds ``x``, ``y`` and optionally
``sed``, ``wavelength``. Any other array is refused.

PSFs are written as npz, npy, FITS or zarr: ``psf`` (object, y, x), each of unit sum with
its windowed centroid on index ``n // 2`` of both axes, ``x``, ``y``, and ``extrapolated``,
True beyond the stars that the model was fitted to. In FITS the PSFs are the first image, the
rest is the table ``OBJECTS``; npy holds the PSFs alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.stats import mad_std

from psfscale.arrayfile import write_array
from psfscale.arrays import FieldPoints, StarBatch
from psfscale.errors import InputError
from psfscale.npzfile import read_npz
from psfscale.store.groups import write_group
from psfscale.user_arrays import read_numbers

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

PSF_FORMATS = (".npz", ".npy", ".fits", ".zarr")
"""Endings of a file of PSFs; each is a format."""
PSF_KIND = "PSFs"


def read_stars(path: Path | str) -> StarBatch:
    """Read a star stack.

    Weights come from ``weight``, else from ``sigma``, else from the noise measured on the
    border of each stamp; without ``weight``, pixels that are not finite count as masked.

    Raises
    ------
    InputError
        The file is missing or not an npz, an array is missing, unknown, of the wrong shape, or
        holds values that a `StarBatch` refuses, or both weight and sigma are there.
    """
    optional = ("weight", "sigma", "sed", "wavelength")
    arrays = read_npz(path, required=("image", "x", "y"), optional=optional)
    try:
        return _stars(arrays)
    except InputError as error:
        msg = f"{path}: {error}"
        raise InputError(msg) from error


def _stars(arrays: dict[str, np.ndarray]) -> StarBatch:
    if "weight" in arrays and "sigma" in arrays:
        msg = "weight and sigma both say what the noise is: keep one of them"
        raise InputError(msg)
    image = read_numbers(arrays["image"], "image").values
    if image.ndim != 3 or not image.size:
        msg = f"image has shape {image.shape}, expected (star, y, x), none of them 0"
        raise InputError(msg)
    weight = arrays["weight"] if "weight" in arrays else _weights(arrays, image)
    return StarBatch(
        image=np.where(weight > 0, image, 0) if "weight" not in arrays else image,
        weight=weight,
        **{name: arrays.get(name) for name in ("x", "y", "sed", "wavelength")},  # type: ignore[arg-type]
    )


def read_points(path: Path | str) -> FieldPoints:
    """Read where PSFs are wanted.

    Raises
    ------
    InputError
        The file is missing or not an npz, an array is unknown, or ``x``, ``y`` are missing,
        disagree or are not finite.
    """
    arrays = read_npz(path, required=("x", "y"), optional=("sed", "wavelength"))
    try:
        return FieldPoints(**arrays)
    except InputError as error:
        msg = f"{path}: {error}"
        raise InputError(msg) from error


def write_psfs(
    path: Path | str,
    psf: Float[np.ndarray, "object y x"],
    *,
    at: FieldPoints,
    extrapolated: Bool[np.ndarray, " object"],
) -> None:
    """Write PSFs and their positions, whole or not at all, in the format of the path's ending."""
    import xarray as xr

    path = Path(path)
    if path.suffix == ".npy":
        write_array(path, psf)
        return
    beyond = np.asarray(extrapolated, dtype=bool)
    group = xr.Dataset(
        {"psf": (("object", "psf_y", "psf_x"), psf), "extrapolated": ("object", beyond)},
        coords={name: ("object", getattr(at, name), {"units": "pixel"}) for name in ("x", "y")},
    )
    write_group(path, group, image="psf", kind=PSF_KIND)


def border_sigma(image: Float[np.ndarray, "star y x"]) -> Float[np.ndarray, " star"]:
    """Noise of each stamp: scaled median absolute deviation of its outermost pixels.

    The border is an eighth of the stamp wide; pixels that are not finite are left out.
    Stars fainter at the border than the noise leave it unbiased. Whole numbers are dithered by
    half a unit: the deviation of whole numbers is a multiple of 1.48, whatever the noise.
    """
    ny, nx = image.shape[1:]
    border = np.ones((ny, nx), dtype=bool)
    by, bx = max(ny // 8, 1), max(nx // 8, 1)
    border[by : ny - by, bx : nx - bx] = False
    edge = np.where(np.isfinite(image), image, np.nan)[:, border].astype(np.float64)
    sigma = np.asarray(mad_std(edge, axis=1, ignore_nan=True))
    whole = (edge == np.round(edge)) | np.isnan(edge)
    rounded = whole.all(axis=1) & (np.nanmin(edge, axis=1) < np.nanmax(edge, axis=1))
    dither = np.random.default_rng(0).uniform(-0.5, 0.5, edge.shape[1])
    spread = np.asarray(mad_std(edge[rounded] + dither, axis=1, ignore_nan=True))
    # the dither adds the variance of rounding, 1/12, once more
    sigma[rounded] = np.sqrt(np.maximum(spread**2 - 1 / 12, 1 / 12))
    return sigma


def _weights(
    arrays: dict[str, np.ndarray], image: Float[np.ndarray, "star y x"]
) -> Float[np.ndarray, "star y x"]:
    """Inverse variances by the noise that is given, or measured; 0 where a pixel is not finite."""
    finite = np.isfinite(image)
    empty = np.flatnonzero(~finite.any(axis=(1, 2)))
    if empty.size:
        msg = f"{empty.size} stars hold no finite pixel (first: {empty[:5].tolist()})"
        raise InputError(msg)
    sigma = _sigma(arrays["sigma"], len(image)) if "sigma" in arrays else _measured(image)
    weight = finite / sigma[:, None, None].astype(np.float64) ** 2
    # inverse squares of noise in very small or large units leave the range of float32
    moderate = weight[finite].min() > 1e-30 and weight.max() < 1e30
    return np.asarray(weight, dtype=np.float32 if moderate else np.float64)


def _measured(image: Float[np.ndarray, "star y x"]) -> Float[np.ndarray, " star"]:
    sigma = border_sigma(image)
    flat = np.flatnonzero(~(sigma > 0))
    if flat.size:
        msg = (
            f"the noise of {flat.size} stars cannot be measured on their borders "
            f"(first: {flat[:5].tolist()}); give sigma or weight"
        )
        raise InputError(msg)
    return sigma


def _sigma(given: np.ndarray, n: int) -> Float[np.ndarray, " star"]:
    sigma = read_numbers(given, "sigma").values
    if sigma.shape not in {(), (n,)}:
        msg = f"sigma has shape {sigma.shape}, expected ({n},)"
        raise InputError(msg)
    if not (np.isfinite(sigma).all() and (sigma > 0).all()):
        msg = "sigma must be finite and positive"
        raise InputError(msg)
    return np.broadcast_to(sigma, (n,))
