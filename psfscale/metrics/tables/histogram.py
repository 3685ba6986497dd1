"""Quantiles from counts in fixed bins, which add exactly.

Bins are logarithmic on both sides of zero: a quantile is within `ACCURACY` of its own size of the
value at its rank among the values themselves, or within `SMALLEST` of it where that is below
`SMALLEST`. (T-digests and KLL sketches are smaller, but what they say depends on the order of
merging.)
"""

from __future__ import annotations

import numpy as np

ACCURACY = 0.01
"""Largest relative error of a quantile."""
SMALLEST = 1e-5
"""Values of less than this in size count as 0."""
LARGEST = 2.0**16
"""Values of more than this in size are not tallied."""

_STEP = np.log((1 + ACCURACY) / (1 - ACCURACY))
_PER_SIDE = int(np.ceil(np.log(LARGEST / SMALLEST) / _STEP)) + 1
N_BINS = 2 * _PER_SIDE + 1


def bin_of(values: np.ndarray) -> np.ndarray:
    """Bin of each value; all of at most `LARGEST` in size."""
    size = np.maximum(np.abs(values) / SMALLEST, 1.0)
    away = np.floor(np.log(size) / _STEP).astype(np.int64) + 1
    signed = np.sign(values) * np.where(np.abs(values) < SMALLEST, 0, away)
    return np.asarray(signed, np.int64) + _PER_SIDE


def _values() -> np.ndarray:
    """The value that stands for each bin: that of least relative error to both its edges."""
    lower = SMALLEST * np.exp(_STEP * np.arange(_PER_SIDE))
    positive = lower * (1 + ACCURACY)
    return np.concatenate([-positive[::-1], [0.0], positive])


def quantiles(counts: np.ndarray, at: tuple[float, ...]) -> np.ndarray:
    """Quantiles of counted values; NaN where there are none.

    Parameters
    ----------
    counts : (..., `N_BINS`)
    at : probabilities; the value of rank ``floor(p (n − 1))`` is meant

    Returns
    -------
    array
        (len(at), ...)
    """
    values, summed = _values(), np.cumsum(counts, axis=-1)
    n = summed[..., -1]

    def one(p: float) -> np.ndarray:
        rank = np.floor(p * (n - 1))
        bins = (summed <= rank[..., None]).sum(axis=-1)
        return np.where(n > 0, values[np.minimum(bins, N_BINS - 1)], np.nan)

    return np.stack([one(p) for p in at])
