"""Comparison of a PSF field with the mean star, on stars that the field was not fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from psfscale.arrays import PixelGrid
from psfscale.metrics.field import OVERSAMPLING, PsfField, drawn
from psfscale.metrics.meanstar import mean_star
from psfscale.metrics.refit import MARGIN, refit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jaxtyping import Float

    from psfscale.arrays import StarBatch

    PerStar = Float[np.ndarray, " star"]

_SURE = 2.0
"""Standard deviations by which the stars must agree that the mean star is better."""


@dataclass(frozen=True, kw_only=True)
class MeanStarComparison:
    """Residuals of held-out stars under a PSF field and under the mean star; parts add.

    Attributes
    ----------
    n : stars compared
    power : sum of their squared pixels [electron²]
    field_power, mean_power : sum of squared residuals under the field and the mean star
    votes, votes2 : sums over stars of s and s², s² being the χ² by which the mean star is better
    """

    n: int = 0
    power: float = 0.0
    field_power: float = 0.0
    mean_power: float = 0.0
    votes: float = 0.0
    votes2: float = 0.0

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """Return the comparison over the stars of all parts."""
        found = list(parts)
        names = ("n", "power", "field_power", "mean_power", "votes", "votes2")
        return cls(**{name: sum(getattr(part, name) for part in found) for name in names})

    @property
    def field_error(self) -> float:
        """Relative pixel error of the field, noise included."""
        return float(np.sqrt(self.field_power / self.power)) if self.power > 0 else np.nan

    @property
    def mean_error(self) -> float:
        """Relative pixel error of the mean star, noise included."""
        return float(np.sqrt(self.mean_power / self.power)) if self.power > 0 else np.nan

    @property
    def excess(self) -> float:
        """Error of the field over that of the mean star, less 1; 0 where the noise explains it."""
        sure = self.votes > _SURE * np.sqrt(self.votes2)
        if not (sure and self.mean_power > 0):
            return 0.0
        return self.field_error / self.mean_error - 1


def compare_with_mean_star(
    model: PsfField, fitted: StarBatch, held_out: StarBatch
) -> MeanStarComparison:
    """Compare a PSF field with the mean of the stars it was fitted to, on held-out stars.

    A star that neither explains (a blend, a hit) counts alike against both. The stars agree that
    the mean star is better where the sum of the signed square roots of the differences in χ²
    exceeds `_SURE` times its scatter: a single bright star cannot decide.
    """
    if not (len(fitted) and len(held_out)):
        return MeanStarComparison()
    mean = constant_psf(fitted)
    if mean is None:
        return MeanStarComparison()
    image, weight = (a.astype(np.float64) for a in (held_out.image, held_out.weight))
    height, width = ((n + 2 * MARGIN) * OVERSAMPLING for n in held_out.stamp_shape)
    grid = PixelGrid(shape=(height, width), oversampling=OVERSAMPLING)
    of_field = refit(image, weight, drawn(model, held_out.points, grid), oversampling=OVERSAMPLING)
    of_mean = refit(image, weight, mean[None], oversampling=1)
    used = (weight > 0) & np.isfinite(of_field.model) & np.isfinite(of_mean.model)
    field, average = (np.where(used, image - at.model, 0.0) for at in (of_field, of_mean))
    difference = (weight * (field**2 - average**2)).sum(axis=(1, 2))
    votes = np.sign(difference) * np.sqrt(np.abs(difference))
    return MeanStarComparison(
        n=len(image),
        power=float((np.where(used, image, 0.0) ** 2).sum()),
        field_power=float((field**2).sum()),
        mean_power=float((average**2).sum()),
        votes=float(votes.sum()),
        votes2=float((votes**2).sum()),
    )


def constant_psf(stars: StarBatch) -> Float[np.ndarray, "y x"] | None:
    """Return the mean of stars, registered to itself; None where they have no common centre.

    The first mean is registered by the brightest pixels' Gaussian, the second by the first.
    """
    image, weight = (a.astype(np.float64) for a in (stars.image, stars.weight))
    mean: Float[np.ndarray, "y x"] = _start(stars.stamp_shape)
    for _ in range(3):
        at = refit(image, weight, mean[None], oversampling=1)
        use = at.converged
        if not use.any():
            return None
        mean = mean_star(image[use], weight[use], at.select(use), oversampling=1)
    return mean


def _start(shape: tuple[int, int]) -> Float[np.ndarray, "y x"]:
    """A Gaussian of 1.5 pixels on the grid of a mean star."""
    y, x = (np.arange(n + 2 * MARGIN) - (n + 2 * MARGIN) // 2 for n in shape)
    gauss = np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * 1.5**2))
    return np.asarray(gauss / gauss.sum())
