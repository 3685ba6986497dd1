"""Adaptive moments of images, in a batch, by GalSim's HSM."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import galsim
import numpy as np

from psfscale.arrays import centre_index
from psfscale.user_arrays import read_numbers

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

FWHM_PER_SIGMA = 2 * np.sqrt(2 * np.log(2))


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Adaptive moments of a batch of images; NaN exactly where `ok` is False.

    Attributes
    ----------
    e1, e2 : distortions (Mxx − Myy)/(Mxx + Myy) and 2Mxy/(Mxx + Myy)
    R2 : Mxx + Myy [arcsec²]
    x, y : centroid [pixel of the image], from the centre index ``n // 2``
    ok : False where the moments could not be measured
    """

    e1: Float[np.ndarray, " object"]
    e2: Float[np.ndarray, " object"]
    R2: Float[np.ndarray, " object"]
    x: Float[np.ndarray, " object"]
    y: Float[np.ndarray, " object"]
    ok: Bool[np.ndarray, " object"]

    @property
    def fwhm(self) -> Float[np.ndarray, " object"]:
        """FWHM of the Gaussian of equal R² [arcsec]."""
        return np.asarray(FWHM_PER_SIGMA * np.sqrt(self.R2 / 2))

    def on_sky(self, jacobian: Float[np.ndarray, "object 2 2"], *, pixel_scale: float) -> Moments:
        """Return the moments in the tangent plane of the sky, u towards west and v towards north.

        As GalSim's ``use_sky_coords``: the matrix M of second moments becomes J M Jᵀ; centroids
        stay in pixels.

        Parameters
        ----------
        jacobian : [[dudx, dudy], [dvdx, dvdy]] of each object [arcsec / CCD pixel]
        pixel_scale : that turned these R² from CCD pixels into arcsec² [arcsec]
        """
        round_, plus, cross = np.ones_like(self.R2), self.e1, self.e2
        matrix = np.stack([round_ + plus, cross, cross, round_ - plus], -1).reshape(-1, 2, 2)
        matrix = matrix * (self.R2 / (2 * pixel_scale**2))[:, None, None]
        turned = jacobian @ matrix @ jacobian.swapaxes(1, 2)
        uu, uv, vv = turned[:, 0, 0], turned[:, 0, 1], turned[:, 1, 1]
        trace = uu + vv
        with np.errstate(invalid="ignore", divide="ignore"):
            return replace(self, e1=(uu - vv) / trace, e2=2 * uv / trace, R2=trace)


def adaptive_moments(
    images: Float[np.ndarray, "object y x"],
    weights: Float[np.ndarray, "object y x"] | None = None,
    *,
    pixel_scale: float,
) -> Moments:
    """Adaptive moments of each image; pixels of weight 0 are left out, whatever they hold.

    Parameters
    ----------
    images : any flux scale; the object stands near the centre of its image
    weights : inverse variances, of which only 0 or not 0 is used; all 1 if None
    pixel_scale : of these images [arcsec]

    Notes
    -----
    HSM's size is σ⁴ = det M. With det M = (R²/2)² (1 − |e|²), R² = 2σ² / √(1 − |e|²).
    """
    given = read_numbers(images, "images")
    used = np.ones(given.values.shape, dtype=bool) if weights is None else _used(weights)
    if given.masked is not None:
        used = used & ~given.masked
    rows = np.full((len(given.values), 5), np.nan)
    for row, image, use in zip(rows, given.values, used, strict=True):
        row[:] = _measured(np.where(use, image, 0.0), use)
    e1, e2, R2, x, y = rows.T
    return Moments(e1=e1, e2=e2, R2=R2 * pixel_scale**2, x=x, y=y, ok=np.isfinite(R2))


def _used(weights: Any) -> Bool[np.ndarray, "object y x"]:
    """Pixels with weight; what is masked has none."""
    given = read_numbers(weights, "weights")
    return given.values > 0 if given.masked is None else (given.values > 0) & ~given.masked


_FAILED = (np.nan,) * 5


def _measured(
    image: Float[np.ndarray, "y x"], use: Bool[np.ndarray, "y x"]
) -> tuple[float, float, float, float, float]:
    """e1, e2, R² [pixel²], x, y of one image; NaN where HSM finds none."""
    total, peak = float(image.sum()), float(image.max(initial=0.0))
    if not (np.isfinite(image).all() and total > 0 and peak > 0):
        return _FAILED
    height, width = image.shape
    found = galsim.hsm.FindAdaptiveMom(
        galsim.Image(np.ascontiguousarray(image, dtype=np.float64), scale=1.0),
        weight=galsim.Image(use.astype(np.int32), scale=1.0),
        # The round Gaussian of this flux and peak: HSM's own guess is 5 pixels for all.
        guess_sig=float(np.sqrt(total / (2 * np.pi * peak))),
        guess_centroid=galsim.PositionD(centre_index(width) + 1, centre_index(height) + 1),
        strict=False,
    )
    e1, e2 = found.observed_shape.e1, found.observed_shape.e2
    x = found.moments_centroid.x - 1 - centre_index(width)
    y = found.moments_centroid.y - 1 - centre_index(height)
    distortion = e1**2 + e2**2
    strayed = abs(x) > width / 4 or abs(y) > height / 4
    if found.error_message or found.moments_sigma <= 0 or strayed or distortion >= 1:
        return _FAILED
    return e1, e2, 2 * found.moments_sigma**2 / np.sqrt(1 - distortion), x, y
