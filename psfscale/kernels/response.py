r"""What a detector does to an image: pixels that integrate, and blurs, as one symmetric filter.

Pixel and blur multiply the spectrum of the image by a transfer function H(f), f in cycles per
CCD pixel. The image is band-limited, so a short filter on samples finer than Nyquist does that
exactly up to the few parts in 10⁵ of its least-squares design; for sums of samples (`binned`)
it is exact by construction.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from psfscale.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float

    Transfer = Callable[[Float[np.ndarray, " frequency"]], Float[np.ndarray, " frequency"]]

__all__ = ["binned_pixel", "filter_taps", "gaussian_blur", "pixel_matrix", "square_pixel"]

_OVERDETERMINED = 8
"""Frequencies of the design per tap."""


def square_pixel(f: Float[np.ndarray, " frequency"]) -> Float[np.ndarray, " frequency"]:
    """Transfer of a pixel that integrates over its whole side."""
    return np.asarray(np.sinc(f))


def binned_pixel(n: int) -> Transfer:
    """Transfer of a pixel that averages `n` point samples along a side."""
    offset = (np.arange(n) - (n - 1) / 2) / n
    return lambda f: np.asarray(np.cos(2 * np.pi * np.outer(f, offset)).mean(axis=1))


def gaussian_blur(sigma: float) -> Transfer:
    """Transfer of a Gaussian of `sigma` [CCD pixel]."""
    return lambda f: np.asarray(np.exp(-2 * (np.pi * sigma * f) ** 2))


def filter_taps(
    transfer: Transfer, *, samples: int, reach: int, band_limit: float
) -> Float[np.ndarray, " tap"]:
    """Symmetric filter of ``2 reach + 1`` taps with this transfer below the band limit.

    Parameters
    ----------
    transfer : of f [cycle/CCD pixel]
    samples : of the image per CCD pixel
    reach : taps on either side of the middle
    band_limit : of the image [cycle/CCD pixel]

    Raises
    ------
    InputError
        The samples are too coarse for the band limit.
    """
    if samples < 2 * band_limit:
        need = math.ceil(2 * band_limit)
        msg = f"{samples} samples a pixel are too few for {band_limit:.2f} cycles; use {need}"
        raise InputError(msg)
    f = np.linspace(0, band_limit, _OVERDETERMINED * (reach + 1))
    cosines = np.cos(2 * np.pi * np.outer(f, np.arange(reach + 1)) / samples)
    cosines[:, 1:] *= 2
    half = np.linalg.lstsq(cosines, transfer(f), rcond=1e-10)[0]
    return np.concatenate([half[:0:-1], half])


def pixel_matrix(
    taps: Float[np.ndarray, " tap"], *, n_pixels: int, stride: int
) -> Float[np.ndarray, "pixel sample"]:
    """The filter at every `stride`-th sample; samples padded to an even number."""
    n_samples = stride * (n_pixels - 1) + len(taps)
    matrix = np.zeros((n_pixels, n_samples + n_samples % 2))
    for k in range(n_pixels):
        matrix[k, k * stride : k * stride + len(taps)] = taps
    return matrix
