r"""What RCA's field is expected to look like, read from the data themselves.

======  ==================================================  ==============================
symbol  name                                                unit
======  ==================================================  ==============================
v_k     prior variance of s_k, a function of radius         noise variance
τ_kl    prior variance of function k in pattern l           noise variance
======  ==================================================  ==============================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Complex, Float
    from torch import Tensor

    from psfscale.kernels.spectral import FrequencyGrid
    from psfscale.models.rca_field import Field
    from psfscale.models.rca_stars import StarValues

__all__ = ["FieldPrior", "RadialVariance", "RowPrior", "StarScatter"]

SMALLEST_VARIANCE = 1e-3
"""Prior variance, in units of the noise, below which a pixel of a component is empty."""

SMALLEST_PATTERN = 3.0
"""Norm of a component [noise σ] below which its pattern is not known well enough."""

SMALLEST_ROW = 0.02
"""Least prior variance of a row amplitude [noise variance]."""

RADIAL_STEP = 0.5
"""Spacing of the radial profiles [CCD pixel]; smoothed over twice as much."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StarScatter:
    """How much the stars differ from any field, pattern by pattern.

    Real stars scatter about a smooth field by more than their noise, and in some patterns more
    than in others (colour, drizzle phase): what the field shows there is no variation over it.

    Attributes
    ----------
    residual : (star, y, x) star less field, times `share` [electron]
    share : (star, y, x) weight of each pixel over the star's best
    weight : (star,) inverse variance of the best pixel
    values : flux and centre of each star
    grid : the field's frequencies
    rows : (star, component) functions at the stars, orthonormal columns
    """

    residual: Float[Tensor, "star y x"]
    share: Float[Tensor, "star y x"]
    weight: Float[Tensor, " star"]
    values: StarValues
    grid: FrequencyGrid
    rows: Float[Tensor, "star component"]

    def __call__(self, patterns: Complex[Tensor, "pattern frequency"]) -> Float[Tensor, " pattern"]:
        """Variance of the stars' amplitudes in patterns, at least the noise's own, 1.

        What the functions of position can follow is taken out first: a field that is not
        fitted yet is no scatter. The mean over stars is by importance, as the field sees them,
        and by the share of a star that the functions leave free.
        """
        phases = self.grid.phases(self.values.dy, self.values.dx)
        root = torch.sqrt(self.weight)
        amplitude = []
        for pattern in patterns:
            stamp = self.grid.sample(pattern * phases)
            size = (self.share * stamp**2).sum((1, 2)).clamp(min=torch.finfo(stamp.dtype).tiny)
            amplitude.append(root * (self.residual * stamp).sum((1, 2)) / size.sqrt())
        z = torch.stack(amplitude, 1)
        free = z - self.rows @ (self.rows.T @ z)
        importance = self.weight * self.values.flux**2
        left = (importance * (1 - (self.rows**2).sum(1)).clamp(min=0)).sum()
        scatter = (importance[:, None] * free**2).sum(0) / left.clamp(min=torch.finfo(z.dtype).tiny)
        return scatter.clamp(min=1.0)


@dataclass(frozen=True, kw_only=True)
class RowPrior:
    """Gaussian prior of how much each component varies with each degree of position.

    The amplitude of white function k in the pattern of component l is known with unit noise,
    or with the stars' own scatter in that pattern where it is larger; its prior variance is
    what the amplitudes of that degree and component exceed it by.

    Attributes
    ----------
    patterns : (pattern, frequency), orthonormal images
    turn : (function, component) from components to white functions
    precision : (function, pattern), inverse prior variance [1/noise variance]
    """

    patterns: Complex[Tensor, "pattern frequency"]
    turn: Float[Tensor, "function component"]
    precision: Float[Tensor, "function pattern"]

    @classmethod
    def of(
        cls,
        field: Field,
        seen: Complex[Tensor, "component frequency"],
        *,
        grid: FrequencyGrid,
        turn: Float[Tensor, "function component"],
        degree: Tensor,
        strongest: int,
        scatter: StarScatter,
    ) -> RowPrior:
        """The prior from the field's strongest images and from images with their noise.

        Parameters
        ----------
        seen : coefficients of the field plus what the data still pull it by
        degree : (function,) total degree of each function
        strongest : number of patterns at most
        scatter : of the stars about the field
        """
        c = field.coefficients[:strongest]
        weight = grid.multiplicity.to(c.real.dtype)
        norm = torch.sqrt((weight * c.abs() ** 2).sum(1))
        strong = (c * weight.sqrt())[norm > SMALLEST_PATTERN]
        plain = torch.linalg.qr(torch.view_as_real(strong).flatten(1).T).Q.T
        pairs = plain.reshape(len(strong), -1, 2).contiguous()
        patterns = torch.view_as_complex(pairs) / weight.sqrt()
        amplitude = turn @ ((seen * weight) @ patterns.mH).real
        n_degrees = int(degree.max()) + 1
        total = amplitude.new_zeros(n_degrees, len(patterns))
        total.index_add_(0, degree, amplitude**2)
        mean = total / torch.bincount(degree, minlength=n_degrees)[:, None]
        variance = (mean / scatter(patterns) - 1).clamp(min=SMALLEST_ROW)[degree]
        return cls(patterns=patterns, turn=turn, precision=1 / variance)

    def forward(
        self, c: Complex[Tensor, "component frequency"], grid: FrequencyGrid
    ) -> Float[Tensor, "function pattern"]:
        """Amplitude of each white function in each pattern."""
        weight = grid.multiplicity.to(c.real.dtype)
        return self.turn @ ((c * weight) @ self.patterns.mH).real

    def adjoint(
        self, amplitude: Float[Tensor, "function pattern"]
    ) -> Complex[Tensor, "component frequency"]:
        """Coefficients of the field that has these amplitudes and nothing else."""
        return (self.turn.T @ amplitude).to(self.patterns.dtype) @ self.patterns

    def gradient(
        self, c: Complex[Tensor, "component frequency"], grid: FrequencyGrid
    ) -> Complex[Tensor, "component frequency"]:
        """The prior's precision applied to coefficients."""
        return self.adjoint(self.precision * self.forward(c, grid))


class RadialVariance:
    """Prior variance of each component as a smooth function of the distance from the centre.

    Parameters
    ----------
    grid : frequencies of the images
    dtype : of the images
    """

    def __init__(self, grid: FrequencyGrid, *, dtype: torch.dtype) -> None:
        ny, nx = grid.fine_shape
        y, x = (
            torch.fft.fftfreq(n, 1 / p, dtype=dtype)
            for n, p in zip((ny, nx), grid.shape, strict=True)
        )
        radius = torch.sqrt(y[:, None] ** 2 + x[None, :] ** 2).flatten() / RADIAL_STEP
        self._inner = radius.long()
        self._part = radius - self._inner
        self._n = int(self._inner.max()) + 2
        self._noise = grid.fraction
        steps = torch.arange(-6, 7, dtype=dtype)
        self._smoothing = torch.exp(-(steps**2) / 8)[None, None]

    def _collect(self, values: Float[Tensor, "component pixel"]) -> Float[Tensor, "component bin"]:
        out = values.new_zeros((len(values), self._n))
        out.index_add_(1, self._inner, values * (1 - self._part))
        out.index_add_(1, self._inner + 1, values * self._part)
        return torch.nn.functional.conv1d(out[:, None], self._smoothing, padding=6)[:, 0]

    def __call__(self, seen: Float[Tensor, "component y x"]) -> Float[Tensor, "component y x"]:
        """The variance behind noisy images: radial mean square less the noise's share."""
        square = (seen**2).flatten(1)
        mean = self._collect(square) / self._collect(torch.ones_like(square[:1]))
        excess = (mean - self._noise).clamp(min=SMALLEST_VARIANCE * self._noise)
        spread = excess[:, self._inner] * (1 - self._part) + excess[:, self._inner + 1] * self._part
        return spread.reshape(seen.shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class FieldPrior:
    """The quadratic prior of a field.

    Attributes
    ----------
    variance : (component, y, x) of each fine pixel [noise variance]
    rows : how much each component varies over the field, None for a constant field
    """

    variance: Float[Tensor, "component y x"]
    rows: RowPrior | None
