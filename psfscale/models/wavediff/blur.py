"""Gaussian jitter of the line of sight: round, or stretched along a direction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

__all__ = ["SHARP", "Blur"]


@dataclass(frozen=True, kw_only=True)
class Blur:
    """A Gaussian of covariance ``[[round + plus, cross], [cross, round - plus]]`` in x and y.

    Attributes
    ----------
    round : mean of the variances along x and y [pixel²]
    plus : half their difference [pixel²]
    cross : covariance [pixel²]
    """

    round: float = 0.0
    plus: float = 0.0
    cross: float = 0.0

    @property
    def spread(self) -> float:
        """Half the difference of the variances along the longest and the shortest axis."""
        return math.hypot(self.plus, self.cross)

    @property
    def least(self) -> float:
        """Variance along the shortest axis."""
        return max(self.round - self.spread, 0.0)

    @property
    def longest(self) -> float:
        """σ along the longest axis of what the blur has beyond a round one of `least`."""
        return math.sqrt(2 * self.spread)

    def moved(self, step: Sequence[float]) -> Self:
        """After a change of (round), or of (plus, cross, round); variances stay positive."""
        round_ = max(self.round + step[-1], 0.0)
        plus, cross = self.plus, self.cross
        if len(step) > 1:
            plus, cross = plus + step[0], cross + step[1]
        share = min(1.0, round_ / max(math.hypot(plus, cross), 1e-30))
        return type(self)(round=round_, plus=share * plus, cross=share * cross)

    def since(self, other: Blur) -> tuple[float, float, float]:
        """Change from another blur: (plus, cross, round) [pixel²]."""
        return self.plus - other.plus, self.cross - other.cross, self.round - other.round

    def beyond_round(
        self, fy: Float[np.ndarray, " frequency"], fx: Float[np.ndarray, " frequency"]
    ) -> Float[np.ndarray, "y x"]:
        """Transfer [1] of what it has beyond a round blur of `least`, f in cycle/pixel."""
        xx, yy = self.spread + self.plus, self.spread - self.plus
        across = 2 * self.cross * np.outer(fy, fx)
        variance = xx * fx[None, :] ** 2 + yy * fy[:, None] ** 2 + across
        return np.asarray(np.exp(-2 * math.pi**2 * variance))


SHARP = Blur()
"""No jitter."""
