r"""What RCA's field is expected to look like, read from the data themselves.

======  ==================================================  ==============================
symbol  name                                                unit
======  ==================================================  ==============================
v_k     prior variance of s_k, a function of radius         noise variance
                                                            of the pixel
D_k     v_k / (1 + v_k), what is left of noisy pixels       1
M       (1 + prior precision)⁻¹, the field's covariance     noise variance
        were its data white noise and no frequencies alias
τ_kl    prior variance of function k in pattern l           noise variance
======  ==================================================  ==============================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from psfscale.models.variation import SMALLEST_VARIATION, Variation, row_support

if TYPE_CHECKING:
    from jaxtyping import Complex, Float, Int
    from torch import Tensor

    from psfscale.kernels.spectral import FrequencyGrid
    from psfscale.models.rca.field import Field
    from psfscale.models.rca.stars import StarValues

__all__ = ["FieldCovariance", "FieldPrior", "RadialVariance", "RowPrior", "StarScatter"]

SMALLEST_VARIANCE = 0.003
"""Prior variance, in units of the noise, below which a pixel of a component is empty."""

SMALLEST_PATTERN = 3.0
"""Norm of a component [noise σ] below which its pattern is not known well enough."""

RADIAL_STEP = 0.5
"""Spacing of the radial profiles [CCD pixel]; smoothed over twice as much."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StarScatter:
    """How much the stars differ from any field, pattern by pattern.

    Real stars scatter about a smooth field by more than their noise, and in some patterns more
    than in others (colour, drizzle phase): what the field shows there is no variation over it.

    Attributes
    ----------
    residual : (ccd, star, y, x) star less field, times `share` [electron]
    share : (ccd, star, y, x) weight of each pixel over the star's best
    weight : (ccd, star) inverse variance of the best pixel
    values : flux and centre of each star
    grid : the field's frequencies
    rows : (ccd, star, component) functions at the stars, orthonormal columns
    """

    residual: Float[Tensor, "*ccd star y x"]
    share: Float[Tensor, "*ccd star y x"]
    weight: Float[Tensor, "*ccd star"]
    values: StarValues
    grid: FrequencyGrid
    rows: Float[Tensor, "*ccd star component"]

    def __call__(
        self, patterns: Complex[Tensor, "*ccd pattern frequency"]
    ) -> Float[Tensor, "*ccd pattern"]:
        """Variance of the stars' amplitudes in patterns, at least the noise's own, 1.

        What the functions of position can follow is taken out first: a field that is not
        fitted yet is no scatter. The mean over stars is by importance, as the field sees them,
        and by the share of a star that the functions leave free.
        """
        phases = self.grid.phases(self.values.dy, self.values.dx)
        spectra = self.grid.sample_adjoint(self.residual) * phases.conj()
        seen = ((spectra * self.grid.weight(spectra)) @ patterns.mH).real
        size = self._sizes(patterns, phases).clamp(min=torch.finfo(seen.dtype).tiny)
        z = torch.sqrt(self.weight)[..., None] * seen / size.sqrt()
        free = z - self.rows @ (self.rows.mT @ z)
        importance = self.weight * self.values.flux**2
        left = (importance * (1 - (self.rows**2).sum(-1)).clamp(min=0)).sum(-1, keepdim=True)
        total = (importance[..., None] * free**2).sum(-2)
        return (total / left.clamp(min=torch.finfo(z.dtype).tiny)).clamp(min=1.0)

    def _sizes(
        self, patterns: Complex[Tensor, "*ccd pattern frequency"], phases: Tensor
    ) -> Float[Tensor, "*ccd star pattern"]:
        """Σ share·stamp² of each pattern on each star, in closed form for whole stars."""
        grid, weight = self.grid, self.grid.weight(patterns)
        size = patterns.real.new_zeros(*self.weight.shape, patterns.shape[-2])
        whole = torch.cat([patterns, patterns.conj()], -1)
        for (my, mx), (here, source) in grid.aliases(patterns.device).items():
            pair = (weight * patterns.conj())[..., here] * whole[..., source]
            angle = 2 * math.pi * (my * self.values.dy + mx * self.values.dx)
            turn = torch.polar(torch.ones_like(angle), angle)
            size += (turn[..., None] * pair.sum(-1)[..., None, :]).real / grid.pixel_ratio
        partial = (self.share < 1).flatten(-2).any(-1) & (self.weight > 0)
        if bool(partial.any()):
            share, turned = self.share[partial], phases[partial]
            for i, pattern in enumerate(patterns.unbind(-2)):
                rows = pattern[..., None, :].expand_as(phases)[partial]
                stamp = grid.sample(rows * turned)
                size[..., i][partial] = (share * stamp**2).sum((-2, -1))
        return size


@dataclass(frozen=True, kw_only=True)
class RowPrior:
    """Gaussian prior of how much each component varies over the field.

    The amplitude of smooth function k in the pattern of component l is known with unit noise,
    or with the stars' own scatter in that pattern where it is larger; its prior variance is
    that of the smooth field that explains the amplitudes best.

    Attributes
    ----------
    patterns : (ccd, pattern, frequency), orthonormal images, or empty ones at the end
    turn : (ccd, function, component) from components to smooth functions
    variance : (ccd, function, pattern), prior variance [noise variance]
    """

    patterns: Complex[Tensor, "*ccd pattern frequency"]
    turn: Float[Tensor, "*ccd function component"]
    variance: Float[Tensor, "*ccd function pattern"]

    @classmethod
    def of(
        cls,
        field: Field,
        seen: Complex[Tensor, "*ccd component frequency"],
        *,
        grid: FrequencyGrid,
        turn: Float[Tensor, "*ccd function component"],
        mixing: Float[Tensor, "*ccd function function"],
        degree: Int[Tensor, " function"],
        strongest: int,
        row_sparsity: int | Literal["auto"] | None,
        scatter: StarScatter,
    ) -> RowPrior:
        """The prior from the field's strongest images and from images with their noise.

        Parameters
        ----------
        seen : coefficients of the field plus what the data still pull it by
        turn : from components to white functions
        mixing : white functions from functions of position
        degree : (function,) total degree of each function of position
        strongest : number of patterns at most
        row_sparsity : functions that a component may use at most; auto = those that show more
            than noise, None = all
        scatter : of the stars about the field
        """
        patterns = _principal(field.coefficients[..., :strongest, :], grid)
        amplitude = turn @ ((seen * grid.weight(seen)) @ patterns.mH).real
        noise = scatter(patterns)
        found = Variation.of(amplitude, mixing=mixing, degree=degree, noise=noise)
        variance = found.variance
        if row_sparsity is not None:
            square = (found.turn @ amplitude) ** 2 / noise[..., None, :]
            most = None if row_sparsity == "auto" else row_sparsity
            used = row_support(square, variance, most=most)
            variance = torch.where(used, variance, SMALLEST_VARIATION)
        return cls(patterns=patterns, turn=found.turn @ turn, variance=variance)

    def forward(
        self, c: Complex[Tensor, "*ccd component frequency"], grid: FrequencyGrid
    ) -> Float[Tensor, "*ccd function pattern"]:
        """Amplitude of each smooth function in each pattern."""
        return self.turn @ ((c * grid.weight(c)) @ self.patterns.mH).real

    def adjoint(
        self, amplitude: Float[Tensor, "*ccd function pattern"]
    ) -> Complex[Tensor, "*ccd component frequency"]:
        """Coefficients of the field that has these amplitudes and nothing else."""
        return (self.turn.mT @ amplitude).to(self.patterns.dtype) @ self.patterns

    def gradient(
        self, c: Complex[Tensor, "*ccd component frequency"], grid: FrequencyGrid
    ) -> Complex[Tensor, "*ccd component frequency"]:
        """The prior's precision applied to coefficients."""
        return self.adjoint(self.forward(c, grid) / self.variance)


def _principal(
    c: Complex[Tensor, "*ccd pattern frequency"], grid: FrequencyGrid
) -> Complex[Tensor, "*ccd pattern frequency"]:
    """Principal images of unit norm, strongest first; those near the noise, at the end, empty."""
    plain = torch.view_as_real(c * grid.weight(c).sqrt()).flatten(-2).double()
    square, u = torch.linalg.eigh(plain @ plain.mT)
    norm, u = square.flip(-1).clamp(min=0).sqrt(), u.flip(-1)
    scale = torch.where(norm > SMALLEST_PATTERN, 1 / norm, 0.0)
    principal: Tensor = (u * scale[..., None, :]).mT.to(c.dtype) @ c
    return principal


class RadialVariance:
    """Prior variance of each component as a smooth function of the distance from the centre.

    Parameters
    ----------
    grid : frequencies of the images
    dtype, device : of the images
    """

    def __init__(self, grid: FrequencyGrid, *, dtype: torch.dtype, device: torch.device) -> None:
        ny, nx = grid.fine_shape
        y, x = (
            torch.fft.fftfreq(n, 1 / p, dtype=dtype, device=device)
            for n, p in zip((ny, nx), grid.shape, strict=True)
        )
        radius = torch.sqrt(y[:, None] ** 2 + x[None, :] ** 2).flatten() / RADIAL_STEP
        self._inner = radius.long()
        self._part = radius - self._inner
        self._n = int(self._inner.max()) + 2
        self._noise = grid.fraction
        steps = torch.arange(-6, 7, dtype=dtype, device=device)
        self._smoothing = torch.exp(-(steps**2) / 8)[None, None]
        self._size = self._collect(torch.ones_like(radius)[None])

    def _collect(self, values: Float[Tensor, "row pixel"]) -> Float[Tensor, "row bin"]:
        out = values.new_zeros((len(values), self._n))
        out.index_add_(1, self._inner, values * (1 - self._part))
        out.index_add_(1, self._inner + 1, values * self._part)
        return torch.nn.functional.conv1d(out[:, None], self._smoothing, padding=6)[:, 0]

    def __call__(
        self, seen: Float[Tensor, "*ccd component y x"]
    ) -> Float[Tensor, "*ccd component y x"]:
        """The variance behind noisy images: what their radial mean square exceeds the noise by.

        A pixel of the grid's noise has the variance of its share of the degrees of freedom;
        the excess is counted in that unit, so that it is the variance of a coefficient.
        """
        square = (seen**2).flatten(-2).flatten(0, -2)
        mean = self._collect(square) / self._size
        excess = (mean / self._noise - 1).clamp(min=SMALLEST_VARIANCE)
        spread = excess[:, self._inner] * (1 - self._part) + excess[:, self._inner + 1] * self._part
        return spread.reshape(seen.shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class FieldPrior:
    """The quadratic prior of a field.

    Attributes
    ----------
    variance : (ccd, component, y, x) at each fine pixel [noise variance of that pixel]
    rows : how much each component varies over the field, None for a constant field
    """

    variance: Float[Tensor, "*ccd component y x"]
    rows: RowPrior | None

    def gradient(
        self, c: Complex[Tensor, "*ccd component frequency"], grid: FrequencyGrid
    ) -> Complex[Tensor, "*ccd component frequency"]:
        """The prior's precision applied to coefficients."""
        out = grid.coefficients(grid.image(c) / self.variance)
        return out if self.rows is None else out + self.rows.gradient(c, grid)


class FieldCovariance:
    r"""M, the covariance of a field that is seen with white noise: ``(D⁻¹ + Bᵀ τ⁻¹ B)⁻¹``.

    D weighs pixels of the components, B takes the amplitudes of the functions in the patterns;
    by Woodbury's identity ``M = D − D Bᵀ (τ + B D Bᵀ)⁻¹ B D``, a small dense system.

    Parameters
    ----------
    prior : variances of pixels and of rows
    grid : frequencies of the images
    least : floor of the pixels' variance [noise variance]
    """

    def __init__(self, prior: FieldPrior, grid: FrequencyGrid, *, least: float = 0.0) -> None:
        variance = prior.variance.clamp(min=least)
        self._grid = grid
        self._left = variance / (1 + variance)
        self._rows = prior.rows
        if prior.rows is not None:
            self._patterns = grid.image(prior.rows.patterns)
            self._factor = torch.linalg.cholesky(self._amplitudes_covariance(prior.rows))

    def _amplitudes_covariance(self, rows: RowPrior) -> Float[Tensor, "*ccd amplitude amplitude"]:
        """τ + B D Bᵀ over (function, pattern)."""
        turn, p = rows.turn, self._patterns.flatten(-2)
        pairs = p[..., :, None, :] * p[..., None, :, :]
        kept = self._left.flatten(-2) @ pairs.flatten(-3, -2).mT
        products = (turn[..., :, None, :] * turn[..., None, :, :]).flatten(-3, -2) @ kept
        n, m = turn.shape[-2], p.shape[-2]
        dense = products.reshape(*turn.shape[:-2], n, n, m, m).transpose(-3, -2)
        square: Tensor = dense.reshape(*turn.shape[:-2], n * m, n * m)
        return square + torch.diag_embed(rows.variance.flatten(-2))

    def __call__(
        self, c: Complex[Tensor, "*ccd component frequency"]
    ) -> Complex[Tensor, "*ccd component frequency"]:
        """M applied to coefficients."""
        image = self._left * self._grid.image(c)
        if self._rows is not None:
            image = image - self._left * self._held(image, self._rows.turn)
        return self._grid.coefficients(image)

    def _held(
        self, image: Float[Tensor, "*ccd component y x"], turn: Tensor
    ) -> Float[Tensor, "*ccd component y x"]:
        """Bᵀ (τ + B D Bᵀ)⁻¹ B of an image."""
        p = self._patterns.flatten(-2)
        amplitude = turn @ (image.flatten(-2) @ p.mT)
        solved = torch.cholesky_solve(amplitude.flatten(-2)[..., None], self._factor)
        weight = turn.mT @ solved[..., 0].reshape(amplitude.shape)
        return (weight @ p).reshape(image.shape)
