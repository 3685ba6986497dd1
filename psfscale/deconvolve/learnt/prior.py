r"""What the galaxies of a catalogue are expected to look like, and the sums it is learnt from.

======  ==================================================  ==================
symbol  name                                                unit
======  ==================================================  ==================
v       flux fractions of the Gaussians, then ln size       1, ln pixel
e, c    logarithmic ellipticity and its growth outwards     1
======  ==================================================  ==================

v is Gaussian with a mean and a covariance, (e, c) and the centre are Gaussian and isotropic: their
components are independent and alike. The sums over galaxies add up over blocks in any order.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from psfscale.deconvolve.learnt.background import N_MOMENTS, Sky
from psfscale.deconvolve.learnt.profile import WIDTHS
from psfscale.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float
    from torch import Tensor

    from psfscale.deconvolve.learnt.settings import PriorNumbers

__all__ = ["Prior", "ProfileSums", "prior_of_numbers", "shared_prior", "vague_prior"]

VAGUE_WEIGHT = 3.0
"""Galaxies that the vague prior counts for beside those it is learnt from."""
VAGUE_CENTRE = 1.0
"""Spread of the centres before any galaxy is seen [pixel]."""
VAGUE_ELLIPTICITY = 0.3
VAGUE_GRADIENT = 0.04
VAGUE_LOG_SIZE = 0.7
CORRELATED_WIDTHS = 1.5
"""Neighbouring Gaussians, so many steps apart, share their flux's fluctuation."""
KEPT_VARIANCE = 0.999
"""Share of the fractions' variance that the modes of a learnt prior hold."""
PEAK = (3.6, 2.0)
"""Index and spread of the Gaussians that carry the flux of a vague galaxy: about its size."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prior:
    """A Gaussian population of galaxies.

    Attributes
    ----------
    mean : (gaussian + 1,) of v
    covariance : (gaussian + 1, gaussian + 1) of v; the fractions' part has rows of sum 0
    ellipticity, gradient : variances of each component of e and of c; where galaxies keep their
        ellipticity outwards, that of c is 0
    alignment : covariance of e and c, of a component
    centre : variance of each coordinate of the centre [pixel²]
    sky_mean, sky_variance : of the level under galaxies [as the images, and its square]
    n_galaxies : galaxies it was learnt from
    """

    mean: Float[Tensor, " v"]
    covariance: Float[Tensor, "v v"]
    ellipticity: float
    gradient: float
    alignment: float
    centre: float
    sky_mean: float = 0.0
    sky_variance: float = 0.0
    n_galaxies: float = 0.0

    def __post_init__(self) -> None:
        n = len(WIDTHS) + 1
        if self.mean.shape != (n,) or self.covariance.shape != (n, n):
            msg = (
                f"a prior has a mean ({n},) and a covariance ({n}, {n}), got "
                f"{tuple(self.mean.shape)} and {tuple(self.covariance.shape)}"
            )
            raise InputError(msg)

    def times(self, unit: float) -> Prior:
        """The same in a flux unit `unit` times smaller: the sky's level is a flux."""
        if unit == 1.0:
            return self
        mean, variance = self.sky_mean * unit, self.sky_variance * unit**2
        return replace(self, sky_mean=mean, sky_variance=variance)

    @cached_property
    def modes(self) -> Float[Tensor, "gaussian mode"]:
        """Directions of the fractions that vary, strongest first."""
        variance: Tensor
        vectors: Tensor
        variance, vectors = torch.linalg.eigh(self.covariance[:-1, :-1])
        variance, vectors = variance.flip(0).clamp(min=0), vectors.flip(1)
        share = torch.cumsum(variance, 0) / variance.sum()
        n_modes = min(int((share < KEPT_VARIANCE).sum()) + 1, len(WIDTHS) - 1)
        return vectors[:, :n_modes]

    @cached_property
    def population(self) -> Float[Tensor, "mode mode"]:
        """Covariance of the modes' amplitudes b and ln size, b first."""
        n = self.modes.shape[1]
        to_modes = self.covariance.new_zeros(n + 1, len(self.mean))
        to_modes[:n, :-1] = self.modes.T
        to_modes[n, -1] = 1
        return to_modes @ self.covariance @ to_modes.T

    @property
    def twist(self) -> bool:
        """Whether ellipticities may grow outwards."""
        return self.gradient > 0

    @cached_property
    def shape_precision(self) -> Float[Tensor, "2 2"]:
        """Inverse covariance of e and c, of a component; without c, that of e."""
        if not self.twist:
            return self.mean.new_tensor([[1 / self.ellipticity]])
        rows = [[self.ellipticity, self.alignment], [self.alignment, self.gradient]]
        inverse: Tensor = torch.linalg.inv(self.mean.new_tensor(rows))
        return inverse

    @property
    def sky(self) -> Sky:
        """The levels under galaxies."""
        return Sky(mean=self.sky_mean, variance=self.sky_variance)

    def to(self, device: torch.device | None) -> Prior:
        """The prior on a device."""
        return replace(self, mean=self.mean.to(device), covariance=self.covariance.to(device))

    def arrays(self) -> dict[str, np.ndarray]:
        """The prior as plain arrays."""
        return {
            f.name: torch.as_tensor(getattr(self, f.name), dtype=torch.float64).cpu().numpy()
            for f in fields(self)
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Prior:
        """The prior whose `arrays` these are."""
        return cls(
            mean=torch.as_tensor(arrays["mean"], dtype=torch.float64),
            covariance=torch.as_tensor(arrays["covariance"], dtype=torch.float64),
            ellipticity=float(arrays["ellipticity"]),
            gradient=float(arrays["gradient"]),
            alignment=float(arrays["alignment"]),
            centre=float(arrays["centre"]),
            sky_mean=float(arrays["sky_mean"]),
            sky_variance=float(arrays["sky_variance"]),
            n_galaxies=float(arrays["n_galaxies"]),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ProfileSums:
    """Sums over galaxies of their parameters' posterior moments.

    Attributes
    ----------
    count : galaxies, each with its weight
    first, second : sums of E[v] and E[v vᵀ]
    ellipticity, gradient, alignment : sums of E[|e|²]/2, E[|c|²]/2 and E[e·c]/2
    centre : sum of E[|centre|²]/2
    log_width : sum of the PSFs' ln widths [ln pixel]
    levels : see `sky.level_moments`
    """

    count: float
    first: Float[Tensor, " v"]
    second: Float[Tensor, "v v"]
    ellipticity: float
    gradient: float
    alignment: float
    centre: float
    log_width: float
    levels: Float[Tensor, " moment"]

    def __add__(self, other: ProfileSums) -> ProfileSums:
        return ProfileSums(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )

    def vector(self) -> Float[Tensor, " sum"]:
        """The sums in a row, `psfscale.deconvolve.learnt.settings.N_SUMS` of them."""
        parts = (getattr(self, f.name) for f in fields(self))
        return torch.cat([torch.as_tensor(p, dtype=torch.float64).reshape(-1) for p in parts])

    @classmethod
    def from_vector(cls, vector: Float[Tensor, " sum"]) -> ProfileSums:
        """The sums whose `vector` this is."""
        n = len(WIDTHS) + 1
        vector, levels = vector[:-N_MOMENTS], vector[-N_MOMENTS:]
        ellipticity, gradient, alignment, centre, log_width = map(float, vector[-5:])
        return cls(
            count=float(vector[0]),
            first=vector[1 : n + 1],
            second=vector[n + 1 : -5].reshape(n, n),
            ellipticity=ellipticity,
            gradient=gradient,
            alignment=alignment,
            centre=centre,
            log_width=log_width,
            levels=levels,
        )

    def prior(self) -> Prior:
        """The population of highest likelihood for these moments, a vague one counted in.

        Raises
        ------
        InputError
            There is no galaxy in the sums.
        """
        if self.count == 0:
            msg = "a prior is learnt from at least one galaxy, got none"
            raise InputError(msg)
        total = self.count + VAGUE_WEIGHT
        vague = vague_prior(self.log_width / self.count, twist=self.gradient > 0)
        mean = self.first / self.count
        spread = self.second - self.count * torch.outer(mean, mean)
        centred = vague.covariance * VAGUE_WEIGHT
        sky = Sky.of(self.levels)
        return Prior(
            mean=(self.first + VAGUE_WEIGHT * vague.mean) / total,
            covariance=(spread + centred) / total,
            ellipticity=(self.ellipticity + VAGUE_WEIGHT * vague.ellipticity) / total,
            gradient=(self.gradient + VAGUE_WEIGHT * vague.gradient) / total,
            alignment=self.alignment / total,
            centre=(self.centre + VAGUE_WEIGHT * vague.centre) / total,
            sky_mean=sky.mean,
            sky_variance=sky.variance,
            n_galaxies=self.count,
        )


def vague_prior(log_size: float, *, twist: bool = True) -> Prior:
    """What is believed of galaxies before any is seen: smooth profiles of about this size."""
    n = len(WIDTHS)
    k = torch.arange(n, dtype=torch.float64)
    fractions = torch.exp(-(((k - PEAK[0]) / PEAK[1]) ** 2) / 2)
    fractions = fractions / fractions.sum()
    near = torch.exp(-(((k[:, None] - k) / CORRELATED_WIDTHS) ** 2) / 2)
    free = near * fractions.max() ** 2 + 1e-3 * torch.eye(n, dtype=torch.float64) / n**2
    to_sum_zero = torch.eye(n, dtype=torch.float64) - fractions[:, None]
    covariance = torch.zeros(n + 1, n + 1, dtype=torch.float64)
    covariance[:n, :n] = to_sum_zero @ free @ to_sum_zero.T
    covariance[n, n] = VAGUE_LOG_SIZE**2
    return Prior(
        mean=torch.cat([fractions, fractions.new_tensor([log_size])]),
        covariance=covariance,
        ellipticity=VAGUE_ELLIPTICITY**2,
        gradient=VAGUE_GRADIENT**2 * twist,
        alignment=0.0,
        centre=VAGUE_CENTRE**2,
    )


def shared_prior(sums: np.ndarray) -> Prior | None:
    """Return the prior of sums (exposure, ccd, sum), NaN where a CCD has none; None where all are.

    Added up one after another: the order is part of the result.
    """
    rows = sums.reshape(-1, sums.shape[-1])
    total = np.zeros(sums.shape[-1])
    for row in rows[np.isfinite(rows).all(axis=1)]:
        total += row
    joined = ProfileSums.from_vector(torch.from_numpy(total))
    return joined.prior() if joined.count else None


def prior_of_numbers(numbers: PriorNumbers) -> Prior:
    """Return the prior that was kept with a run as numbers."""
    return Prior.from_arrays({name: np.asarray(value) for name, value in numbers.items()})
