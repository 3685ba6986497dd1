"""The stellar locus: stars are the smallest objects, and of one size but for the field's trend.

Sizes are logarithms of windowed variances (`psfscale.ingest.sizes`). Stars lie on a smooth
trend over the field, with a scatter of their own beside the noise; galaxies lie above it. Near the
locus a galaxy's size exceeds the stars' by an amount that goes with the square of its radius, so
small galaxies are evenly strewn there, and what lies beside the locus tells what lies in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

if TYPE_CHECKING:
    from psfscale.ingest.sizes import Sizes

__all__ = ["Locus", "fit_locus", "mode_of"]

_BRIGHT = 30.0
"""Least S/N of an object that the mode is sought with."""
_WIDTH = 0.25
"""Half-width of the sizes about the mode that the fit sees, in the logarithm: a trend's reach."""
_FLOOR = 0.003
"""Least intrinsic scatter of the logarithm of a size."""
_KERNEL = 0.03
"""Least width of an object in the density of the logarithms of sizes."""
_BELOW = 0.2
"""From a size to the smaller one whose density is subtracted, in the logarithm."""
_START, _RESTART, _LARGEST = 0.08, 0.02, 0.1
"""Scatter from which the fits shrink: of a constant, of a trend; and the largest."""
_STEPS = 30
_STARS_A_TERM = 8
"""Stars for each term of the trend."""


@dataclass(frozen=True, kw_only=True)
class Locus:
    """Stars of a field, by size.

    Attributes
    ----------
    excess : size above the trend [standard deviations]; NaN without a size
    deviation : standard deviation of each size about the trend: noise and intrinsic scatter
    scatter : intrinsic scatter of the logarithm of a size
    """

    excess: Float[np.ndarray, " object"]
    deviation: Float[np.ndarray, " object"]
    scatter: float


def fit_locus(
    sizes: Sizes,
    usable: Bool[np.ndarray, " object"],
    u: Float[np.ndarray, " object"],
    v: Float[np.ndarray, " object"],
    *,
    degree: int,
) -> Locus | None:
    """Find the mode of the sizes and fit the trend of those about it; None where there is none.

    Parameters
    ----------
    sizes : under one window
    usable : those that the fit may see: unsaturated
    u, v : place in the field, about -1 to 1
    degree : largest of the trend's polynomial; fewer stars allow a smaller one
    """
    rows = np.flatnonzero(usable & sizes.measured & (sizes.snr >= _BRIGHT))
    if len(rows) < _STARS_A_TERM:
        return None
    mode = mode_of(sizes.log_size[rows], sizes.error[rows])
    rows = rows[np.abs(sizes.log_size[rows] - mode) < _WIDTH]
    if len(rows) < _STARS_A_TERM:
        return None
    fit = _Mixture(sizes.log_size[rows] - mode, sizes.error[rows])
    trend = fit.run(_terms(sizes, u, v, degree=0)[rows], start=_START)
    terms = _terms(sizes, u, v, degree=fit.degree(degree))
    if terms.shape[1] > 1:
        trend = fit.run(terms[rows], start=max(2 * fit.scatter, _RESTART))
    deviation = np.hypot(sizes.error, fit.scatter)
    excess = (sizes.log_size - mode - terms @ trend) / deviation
    return Locus(excess=excess, deviation=deviation, scatter=fit.scatter)


def mode_of(size: Float[np.ndarray, " object"], error: Float[np.ndarray, " object"]) -> float:
    """Return the size at which the density of sizes exceeds that of smaller sizes most.

    There are few objects smaller than stars, and about as many galaxies of one size as of the next.
    Each object counts with a kernel as wide as its error: bright ones count for more.
    """
    width = np.hypot(error, _KERNEL)
    grid = np.arange(size.min() - 0.1, size.max() + 0.1, 0.005)
    density = (np.exp(-0.5 * ((grid[:, None] - size) / width) ** 2) / width).sum(axis=1)
    below = np.interp(grid - _BELOW, grid, density, left=0)
    return float(grid[np.argmax(density - below)])


def _terms(sizes: Sizes, u: np.ndarray, v: np.ndarray, *, degree: int) -> np.ndarray:
    """(object, term) polynomials of the place, and of the phase of the centroid in its pixel."""
    terms = [u**i * v**j for i in range(degree + 1) for j in range(degree + 1 - i)]
    if degree > 0:  # where pixels are coarse, the size of a star depends on its phase
        terms += [np.cos(2 * np.pi * phase) for phase in (sizes.phase_x, sizes.phase_y)]
    return np.stack(terms, axis=1)


def _n_terms(degree: int) -> int:
    return (degree + 1) * (degree + 2) // 2 + (2 if degree else 0)


class _Mixture:
    """Stars about a trend, others evenly strewn above and below it: expectation-maximisation."""

    def __init__(self, size: np.ndarray, error: np.ndarray) -> None:
        self._size, self._error = size, error
        self._member = np.ones(len(size))
        self._trend = np.zeros(1)
        self.scatter = _START

    def degree(self, largest: int) -> int:
        """Return the largest degree for which there are stars enough."""
        n = self._member.sum()
        return max(d for d in range(largest + 1) if d == 0 or n >= _STARS_A_TERM * _n_terms(d))

    def run(self, terms: np.ndarray, *, start: float) -> np.ndarray:
        """Return the coefficients of the trend; the scatter shrinks from `start`."""
        self.scatter = start
        n_more = terms.shape[1] - len(self._trend)
        value = terms @ np.concatenate([self._trend, np.zeros(n_more)])
        shares = np.array([0.5, 0.4, 0.1])
        for _ in range(_STEPS):
            residual = self._size - value
            above = residual > 0
            deviation = np.hypot(self._error, self.scatter)
            star = shares[0] * np.exp(-0.5 * (residual / deviation) ** 2) / deviation
            other = np.where(above, shares[1], shares[2]) / _WIDTH
            self._member = star / (star + np.sqrt(2 * np.pi) * other)
            others = 1 - self._member
            parts = [self._member.sum(), others[above].sum(), others[~above].sum()]
            # No share may vanish: it could not come back.
            shares = np.maximum(np.array(parts) / len(residual), 1e-3)
            root = np.sqrt(self._member) / deviation
            self._trend, *_ = np.linalg.lstsq(terms * root[:, None], self._size * root, rcond=None)
            value = terms @ self._trend
            self.scatter = self._scatter(self._size - value, terms.shape[1])
        return self._trend

    def _scatter(self, residual: np.ndarray, n_terms: int) -> float:
        """Return the spread of the members less their noise; it shrinks by 0.7 a step at most."""
        n = self._member.sum()
        dof = max(n - n_terms, 1) / max(n, 1)
        weight = self._member / (self._error**2 + self.scatter**2) ** 2
        excess = np.sum(weight * (residual**2 / dof - self._error**2)) / np.sum(weight)
        least = max(_FLOOR, 0.7 * self.scatter)
        return float(np.clip(np.sqrt(max(excess, 0)), least, max(_LARGEST, least)))
