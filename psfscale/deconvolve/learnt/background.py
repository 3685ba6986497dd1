r"""Light under a galaxy that is not its own: a constant over the stamp, left by backgrounds.

======  ==================================================  ==================
symbol  name                                                unit
======  ==================================================  ==================
b       level under a galaxy                                as the images
m, s²   mean and variance of b over the catalogue           as the images, ²
c       a level of 1 as the data show it, over the noise    1/image unit
======  ==================================================  ==================

b is Gaussian and integrated out: data and models are multiplied by ``P = (1 + s² c cᵀ)^(-1/2)``,
which leaves all but one direction as it is. m and s² are moments of levels that are fitted together
with the profiles, weighted by their precision; where these do not differ from zero beyond doubt
both are zero, and nothing is fitted. A profile that is not quite the galaxy's leaves some light to
the level, so that levels are no surer than `MISFIT`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from psfscale.deconvolve.learnt.trust import excess_of, trust_in

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["NO_SKY", "N_MOMENTS", "Sky", "level_moments"]

N_MOMENTS = 5
"""Sums over galaxies that m and s² come from: w, w b, w², w² b, w² b², w the precision of b."""
DOUBT = 5.0
"""Significance below which levels are taken for zero [σ]."""
MISFIT = 0.03
"""Standard error of a level over the stamp, beside the noise, in the galaxy's flux."""
TAIL = 4.0
"""Degrees of freedom of the law that levels are weighted by: neighbours make a long tail."""


@dataclass(frozen=True, kw_only=True)
class Sky:
    """Levels of a catalogue.

    Attributes
    ----------
    mean, variance : m and s² of the levels [as the images, and its square]
    """

    mean: float = 0.0
    variance: float = 0.0

    @classmethod
    def of(cls, moments: Float[Tensor, " moment"]) -> Sky:
        """The levels that sums of `level_moments` tell of."""
        w, wb, w2, w2b, w2b2 = map(float, moments)
        if min(w, w2) <= 0:  # of PSFs as flat as a level, by rounding
            return cls()
        scatter = (w2b2 - w) / math.sqrt(2 * w2)
        if max(abs(wb) / math.sqrt(w), scatter) < DOUBT:
            return cls()
        mean = wb / w
        variance = (w2b2 - 2 * mean * w2b + mean**2 * w2 - w) / w2
        return cls(mean=mean, variance=max(variance, 0.0) + 1 / w)

    def whitened(
        self, values: Float[Tensor, "object *model value"], level: Float[Tensor, "object value"]
    ) -> Float[Tensor, "object *model value"]:
        """P times data or models; `level` is c."""
        if not self.variance:
            return values
        power = (level**2).sum(1)
        share = (1 - (1 + self.variance * power).rsqrt()) / power.clamp(min=1e-30)
        shape = (len(level), *[1] * (values.ndim - 2), level.shape[1])
        column = level.reshape(shape)
        along = (values * column).sum(-1, keepdim=True)
        scaled: Tensor = values - along * (share[:, None] * level).reshape(shape)
        return scaled

    def expected(
        self, residual: Float[Tensor, "object value"], level: Float[Tensor, "object value"]
    ) -> Float[Tensor, " object"]:
        """Posterior mean of b − m from what the profiles and m leave of the data."""
        power = (level**2).sum(1)
        found: Tensor = (residual * level).sum(1) * self.variance / (1 + self.variance * power)
        return found


NO_SKY = Sky()
"""Backgrounds leave nothing."""


def level_moments(
    gram: Float[Tensor, "object value value"],
    precision: Float[Tensor, "parameter parameter"],
    pull: Float[Tensor, "object parameter"],
    *,
    sky: Sky,
    least: Float[Tensor, " object"],
    n_values: Float[Tensor, " object"],
) -> Float[Tensor, " moment"]:
    """Sums that `Sky.of` takes, of levels that the profiles' parameters are free to follow.

    Parameters
    ----------
    gram : products of the models' derivatives, then the residual, then c
    precision, pull : curvature and slope of the profiles' prior
    sky : believed until now; levels far from it count less
    least : standard error of a level that no data make less [as the images]
    n_values : pixels; 0 where a galaxy tells nothing
    """
    n = len(precision)
    curvature = gram[:, :n, :n] + precision
    cross, slope = gram[:, :n, -1], gram[:, :n, n] - pull
    solved = torch.linalg.solve(curvature, torch.stack([cross, slope], -1))
    power = gram[:, -1, -1] - (cross * solved[..., 0]).sum(1)
    b = (gram[:, n, -1] - (cross * solved[..., 1]).sum(1)) / power
    chi2 = gram[:, n, n] - gram[:, n, -1] ** 2 / gram[:, -1, -1]
    trust = torch.where(n_values > 0, trust_in(excess_of(chi2, n_values)), 0)
    v = 1 / power + least**2
    away = (b - sky.mean) ** 2 / (v + sky.variance)
    trust, w = trust * (TAIL + 1) / (TAIL + away), 1 / v
    moments: Tensor = trust * torch.stack([w, w * b, w**2, w**2 * b, (w * b) ** 2])
    return moments.nan_to_num().sum(1)
