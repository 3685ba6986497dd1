"""How far restored galaxies are from the true ones, by the published program's definitions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from psfscale.errors import InputError
from psfscale.user_arrays import finite_numbers

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["Score", "gaussian_window", "score", "unweighted_ellipticity"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """Errors of a stack, averaged over its galaxies.

    Attributes
    ----------
    pixel : ``‖x − t‖² / ‖t‖²``
    ellipticity : ``|e(x) − e(t)|``, of unweighted moments
    psnr : peak signal to noise [dB]
    """

    pixel: float
    ellipticity: float
    psnr: float

    def __str__(self) -> str:
        return (
            f"pixel error {self.pixel:.4g}, ellipticity error {self.ellipticity:.4g}, "
            f"PSNR {self.psnr:.2f} dB"
        )


def gaussian_window(shape: tuple[int, int], sigma: float) -> Float[np.ndarray, "y x"]:
    """Gaussian of peak 1 on the stamp's centre index ``n // 2``."""
    y, x = (np.arange(n) - n // 2 for n in shape)
    return np.asarray(np.exp(-(y[:, None] ** 2 + x**2) / (2 * sigma**2)))


def unweighted_ellipticity(
    images: Float[np.ndarray, "object y x"],
) -> Float[np.ndarray, "object 2"]:
    """(e1, e2), distortions of unweighted moments about the unweighted centroid."""
    images = np.asarray(images, dtype=np.float64)
    flux = images.sum((1, 2))
    y, x = np.arange(images.shape[1])[:, None], np.arange(images.shape[2])
    my, mx = (images * y).sum((1, 2)) / flux, (images * x).sum((1, 2)) / flux
    qyy = (images * y**2).sum((1, 2)) / flux - my**2
    qxx = (images * x**2).sum((1, 2)) / flux - mx**2
    qxy = (images * y * x).sum((1, 2)) / flux - mx * my
    return np.asarray(np.stack([qxx - qyy, 2 * qxy], 1) / (qxx + qyy)[:, None])


def score(
    found: Float[np.ndarray, "object y x"],
    truth: Float[np.ndarray, "object y x"],
    *,
    kernel: float | None = None,
    metric: Literal["median", "mean"] = "median",
) -> Score:
    """Errors of restored galaxies.

    Parameters
    ----------
    kernel : σ of a Gaussian window that both are multiplied with first [pixel]
    metric : average over galaxies

    Raises
    ------
    InputError
        Shapes disagree, or `kernel` is not positive.
    """
    x = finite_numbers(found, "restored galaxies").astype(np.float64)
    if kernel is not None and not 0 < kernel < np.inf:
        msg = f"the window of the errors has a positive width, got {kernel}"
        raise InputError(msg)
    t = finite_numbers(truth, "true galaxies").astype(np.float64)
    if x.shape != t.shape:
        msg = f"restored galaxies have shape {x.shape}, the true ones {t.shape}"
        raise InputError(msg)
    if kernel is not None:
        window = gaussian_window((x.shape[1], x.shape[2]), kernel)
        x, t = x * window, t * window
    average = np.median if metric == "median" else np.mean
    distance = np.sqrt(((x - t) ** 2).sum((1, 2)))
    pixel = distance**2 / (t**2).sum((1, 2))
    gap = unweighted_ellipticity(x) - unweighted_ellipticity(t)
    spread = t.max((1, 2)) - t.min((1, 2))
    with np.errstate(divide="ignore"):
        psnr = 20 * np.log10(x.shape[1] * spread / distance)
    return Score(
        pixel=float(average(pixel)),
        ellipticity=float(average(np.hypot(gap[:, 0], gap[:, 1]))),
        psnr=float(average(psnr)),
    )
