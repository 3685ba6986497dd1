"""Stars that are no fair test of a model: blended, struck, or off their positions.

Fit stars that stand out are clipped by the fit. Reserved stars meet the same kind of test here, so
that a single blend does not decide the figures of a CCD.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from psfscale.arrays import ObjectFlag

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from psfscale.metrics.refit import PerStar, Stamps
    from psfscale.metrics.star import StarMetrics

_MAD = 1.4826
_CLIP = 6.0
"""Robust standard deviations beyond which a star stands out, as the fits clip by default."""
_CHI_SCATTER = 0.1
"""Scatter of the square root of χ² that stars of a sound model have at least: colours, and the
wings of neighbours."""
_MOVED = 0.5
"""Distance of a centroid from where the CCD's stars lie that is never a blend's [pixel]."""
_NEIGHBOUR_SNR = 8.0
"""Signal to noise of light that the model does not explain; 1700 pixels of noise reach 4."""
_NEIGHBOUR_SHARE = 0.03
"""The same over the star's flux: fainter neighbours do not change the star's shape."""
_MODEL_SHARE = 0.15
"""Share of the model's own light that its error may be, taken off before a neighbour is seen."""
_MANY = 0.3
"""Share of stars with unexplained light above which that is the model's error."""
_FEWEST = 5
"""Stars below which none stands out."""


def stand_out(
    image: Stamps,
    weight: Stamps,
    measured: StarMetrics,
    *,
    x: PerStar,
    y: PerStar,
    typical: Bool[np.ndarray, " star"],
) -> np.ndarray:
    """Return flags, (star,): `OUTLIER` and `BLENDED` where a star is no fair test of the model.

    Parameters
    ----------
    image, weight : (star, y, x) [electron], [1/electron²]
    measured : of these stars
    x, y : positions [pixel]; the nearest pixel is the stamp's centre
    typical : stars that say what is usual: all but those that the fit clipped
    """
    columns = measured.columns
    outlier = _chi2_stands_out(columns["chi2"], measured.snr2, (weight > 0).sum((1, 2)), typical)
    for shift, position in ((columns["shift_x"], x), (columns["shift_y"], y)):
        outlier |= _moved(shift - (position - np.floor(position + 0.5)), typical)
    blended = _has_neighbour(image, weight, measured.at.model)
    if blended.sum() > _MANY * len(blended):
        blended[:] = False  # it is the model: a bad one must not empty its own figures
    flags = np.where(outlier, int(ObjectFlag.OUTLIER), 0)
    return (flags | np.where(blended, int(ObjectFlag.BLENDED), 0)).astype(np.uint32)


def _chi2_stands_out(
    chi2: PerStar, snr2: PerStar, n_pixels: np.ndarray, typical: Bool[np.ndarray, " star"]
) -> Bool[np.ndarray, " star"]:
    """Whether √χ² exceeds that of stars of like S/N, with which the model error grows."""
    use = typical & np.isfinite(chi2) & (snr2 > 0)
    if use.sum() < _FEWEST:
        return np.zeros(len(chi2), bool)
    error = np.median(np.maximum(chi2[use] - 1, 0) * n_pixels[use] / snr2[use])
    expected = np.sqrt(1 + error * snr2 / np.maximum(n_pixels, 1))
    ratio = np.sqrt(np.maximum(chi2, 0)) / expected
    middle = np.median(ratio[use])
    scatter = max(_MAD * float(np.median(np.abs(ratio[use] - middle))), _CHI_SCATTER)
    return np.asarray(ratio > middle + _CLIP * scatter)


def _moved(offset: PerStar, typical: Bool[np.ndarray, " star"]) -> Bool[np.ndarray, " star"]:
    """Whether a centroid lies off its position by more than those of the other stars."""
    use = typical & np.isfinite(offset)
    if use.sum() < _FEWEST:
        return np.zeros(len(offset), bool)
    middle = np.median(offset[use])
    scatter = _MAD * float(np.median(np.abs(offset[use] - middle)))
    return np.asarray(np.abs(offset - middle) > max(_CLIP * scatter, _MOVED))


def _has_neighbour(image: Stamps, weight: Stamps, model: Stamps) -> Bool[np.ndarray, " star"]:
    """Whether 3 × 3 pixels hold much significant light that the model does not explain."""
    used = weight > 0
    residual = np.where(used, image - model, 0.0)
    information = _boxes(weight)
    with np.errstate(invalid="ignore", divide="ignore"):
        noise = 1 / np.sqrt(information)
        light = _boxes(weight * residual) / information
        own = _boxes(weight * np.maximum(model, 0)) / information
    excess = light - _MODEL_SHARE * own
    flux = np.maximum(model.sum(axis=(1, 2)), 0)[:, None, None]
    found = (excess > _NEIGHBOUR_SNR * noise) & (9 * excess > _NEIGHBOUR_SHARE * flux)
    return np.asarray((found & (information > 0)).any(axis=(1, 2)))


def _boxes(values: Stamps) -> Float[np.ndarray, "star y x"]:
    """Sum over 3 × 3 pixels about each."""
    wide = np.pad(values, ((0, 0), (1, 1), (1, 1)))
    rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    return np.asarray(rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:])
