"""Sums that do not depend on the order of their terms.

A value is written as two whole numbers, value = high · 2⁻¹⁰ + low · 2⁻⁴⁶ with 0 ≤ low < 2³⁶, and
whole numbers add without rounding. The resolution, 1.4e-14, is that of float64 near 64; sums may
reach 9e15.
"""

from __future__ import annotations

import numpy as np

_HIGH_BITS = 10
_LOW_BITS = 36


def split(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`values`, finite and below 2⁵² in size, as (high, low)."""
    scaled = np.asarray(values, np.float64) * 2.0**_HIGH_BITS
    high = np.floor(scaled)
    low = np.floor((scaled - high) * 2.0**_LOW_BITS)
    return high.astype(np.int64), low.astype(np.int64)


def carried(high: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same number with ``low`` in its range: every number has one such form."""
    return high + (low >> _LOW_BITS), low & (2**_LOW_BITS - 1)


def joined(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """The number as float64."""
    return high * 2.0**-_HIGH_BITS + low * 2.0 ** -(_HIGH_BITS + _LOW_BITS)
