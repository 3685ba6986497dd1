"""Measures of star stamps that need no model: border, noise, central light, centroid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    Stamps = Float[np.ndarray, "star y x"]
    PerStar = Float[np.ndarray, " star"]

_MAD = 1.4826
"""Standard deviation over median absolute deviation of a Gaussian."""
_RING = 8
"""The border is one part in so many of the stamp's shorter side, on each side."""
_BOXES = (3, 5, 7)
"""Sides of the central boxes in which light is looked for [pixel]."""
_SMALLEST_WIDTH = 0.7
"""σ of a centroid window below which it sees one pixel only [pixel]."""
_SAMPLE = 64
"""Stamps whose variances are compared with the weights: their median needs no more."""
_STAMPS_AT_ONCE = 512
"""Bounds memory: the arrays of a field over an exposure may hold ten thousand stamps."""


@dataclass(frozen=True, kw_only=True)
class StampMeasures:
    """Measures of stamps, star by star; NaN where masked pixels leave too little.

    Attributes
    ----------
    border : median of the border [electron]
    noise : scatter of the border's pixels [electron]
    peak : brightest of the 3×3 central pixels over the border [electron]
    light : of the central 7×7 pixels over the border [electron]
    significance : of the light in the central box where it is most significant
    variance_ratio : variance of the stamp's outer pixels over what the weights promise, of a
        sample of the stars
    offset_x, offset_y : windowed centroid from the centre of the stamp [pixel]
    """

    border: PerStar
    noise: PerStar
    peak: PerStar
    light: PerStar
    significance: PerStar
    variance_ratio: PerStar
    offset_x: PerStar
    offset_y: PerStar

    @classmethod
    def of(cls, image: Stamps, weight: Stamps) -> StampMeasures:
        """Measure stamps (star, y, x); pixels of weight 0 are not read."""
        blocks = range(0, max(len(image), 1), _STAMPS_AT_ONCE)
        parts = [_measured(image[i : i + _STAMPS_AT_ONCE], weight[i : i + _STAMPS_AT_ONCE])
                 for i in blocks]  # fmt: skip
        names = parts[0].keys()
        joined = {name: np.concatenate([part[name] for part in parts]) for name in names}
        offset_y, offset_x = _centroids(image, weight, joined["border"])
        ratio = np.full(len(image), np.nan)
        if len(image):
            sample = np.unique(np.linspace(0, len(image) - 1, _SAMPLE).astype(int))
            ratio[sample] = variance_ratio(image[sample], weight[sample])
        return cls(**joined, variance_ratio=ratio, offset_x=offset_x, offset_y=offset_y)


def _measured(image: Stamps, weight: Stamps) -> dict[str, PerStar]:
    good = weight > 0
    clean = np.where(good, image, 0.0).astype(np.float64)
    ring = good & border_of(image.shape[1:])
    border, noise = _median_and_scatter(clean, ring)
    over = np.where(good, clean - border[:, None, None], 0.0)
    boxes = [_central(over, side) for side in _BOXES]
    light = boxes[-1].sum(axis=(1, 2))
    return {
        "border": border,
        "noise": noise,
        "peak": boxes[0].max(axis=(1, 2)),
        "light": light,
        "significance": np.max([_significance(box, noise) for box in boxes], axis=0),
    }


def border_of(shape: tuple[int, ...]) -> Bool[np.ndarray, "y x"]:
    """Return the pixels of a stamp's border."""
    width = max(1, min(shape) // _RING)
    border = np.ones(shape, bool)
    border[width:-width, width:-width] = False
    return border


def _median_and_scatter(
    values: Stamps, use: Bool[np.ndarray, "star y x"]
) -> tuple[PerStar, PerStar]:
    """Median and 1.48 times the median absolute deviation of the pixels in use."""
    flat = np.where(use, values, np.nan).reshape(len(values), -1)
    flat[~use.any(axis=(1, 2)), 0] = 0.0  # of no pixel, set back below
    middle = np.nanmedian(flat, axis=1)
    scatter = _MAD * np.nanmedian(np.abs(flat - middle[:, None]), axis=1)
    enough = use.sum(axis=(1, 2)) >= 8
    return np.where(enough, middle, np.nan), np.where(enough, scatter, np.nan)


def _central(stamps: Stamps, side: int) -> Stamps:
    half_y, half_x = (min(side, n) // 2 for n in stamps.shape[1:])
    y, x = (n // 2 for n in stamps.shape[1:])
    return stamps[:, y - half_y : y + half_y + 1, x - half_x : x + half_x + 1]


def _significance(box: Stamps, noise: PerStar) -> PerStar:
    """Sum of a box over its noise; infinite where there is light and no noise at all."""
    total, expected = box.sum(axis=(1, 2)), noise * np.sqrt(box[0].size)
    bare = np.where(total > 0, np.inf, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.where(noise > 0, total / expected, bare)
    return np.where(np.isfinite(noise), found, np.nan)


def variance_ratio(image: Stamps, weight: Stamps) -> PerStar:
    """Variance of each stamp's outer pixels over what the weights promise; 1 if they are true.

    Two estimates, the scatter of the border and that of detail which smooth light does not raise;
    wings raise the first, and correlated noise lowers the second, so the one nearer to 1 counts.

    Parameters
    ----------
    image, weight : (star, y, x); a plane with objects may be cut into stamps. Pixels of weight 0
        are not read
    """
    import torch  # not above: what only names the checks needs no torch

    from psfscale.kernels.noise import stamp_noise

    good = weight > 0
    clean = np.where(good, image, 0.0).astype(np.float64)
    border = good & border_of(image.shape[1:])
    _, noise = _median_and_scatter(clean, border)
    ring = np.where(border, weight, np.nan).reshape(len(weight), -1)
    ring[np.isnan(ring).all(axis=1), 0] = 0.0
    promised = np.nanmedian(ring, axis=1).astype(np.float64)
    detail = stamp_noise(torch.from_numpy(clean), good=torch.from_numpy(good)).numpy()
    ratios = np.stack([noise**2, detail**2]) * promised
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.abs(np.log(ratios))
    nearest = np.where(distance[1] < distance[0], ratios[1], ratios[0])
    return np.where(promised > 0, nearest, np.nan)


def centroids(image: Stamps, weight: Stamps) -> tuple[PerStar, PerStar, PerStar]:
    """Return centroids (y, x) from the centres of stamps [pixel], and the stars' significance."""
    found = _measured(image, weight)
    return *_centroids(image, weight, found["border"]), found["significance"]


def _centroids(image: Stamps, weight: Stamps, border: PerStar) -> tuple[PerStar, PerStar]:
    """Windowed centroids (y, x) from the stamps' centres, the window as wide as the median star."""
    import torch

    from psfscale.kernels.centroid import matched_width, windowed_centroid

    level = np.nan_to_num(border)[:, None, None]
    stamps = torch.from_numpy(np.where(weight > 0, image - level, 0.0).astype(np.float64))
    if not len(stamps):
        return np.empty(0), np.empty(0)
    scale = stamps.flatten(1).amax(1).clamp(min=torch.finfo(torch.float64).tiny)
    median = (stamps / scale[:, None, None]).median(0).values
    width = matched_width(median, start=2.0, smallest=_SMALLEST_WIDTH)
    centroid = windowed_centroid(stamps, width=width)
    offset_y, offset_x = (
        each.numpy() - n // 2 for each, n in zip(centroid, image.shape[1:], strict=True)
    )
    return offset_y, offset_x
