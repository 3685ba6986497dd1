r"""The field's side of RCA: eigen-PSFs from the stars' residuals, under priors from the data.

The field is ``Σ_k b_k(position) s_k``. Its functions b are kept orthonormal in the noise
metric of the stars, so that each image s_k is seen with white noise of unit variance per
coefficient, and rotated so that the images are orthogonal: the first carries the most
signal-to-noise, the last nothing.

======  ==================================================  ==============================
symbol  name                                                unit
======  ==================================================  ==============================
s_k     image of component k (its coefficients c_k)         noise σ of one fine pixel
b_k     function of component k at the stars                1 / (flux · noise σ)
R       (function, component), from position polynomials    as b
v_k     prior variance of s_k, a function of radius         noise variance
======  ==================================================  ==============================
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from psfscale.errors import FitError
from psfscale.kernels.sampling import AliasGram, StarSampling
from psfscale.kernels.solvers import conjugate_gradient

if TYPE_CHECKING:
    from jaxtyping import Complex, Float
    from torch import Tensor

    from psfscale.kernels.spectral import FrequencyGrid
    from psfscale.models.rca_stars import StarPixels, StarValues

__all__ = [
    "Field",
    "FieldPrior",
    "FieldProblem",
    "RadialVariance",
    "RowPrior",
    "WhiteFunctions",
    "noise_limit",
    "on_grid",
    "rotated",
    "solve_ridge",
]

SMALLEST_VARIANCE = 1e-3
"""Prior variance, in units of the noise, below which a pixel of a component is empty."""

SMALLEST_PATTERN = 3.0
"""Norm of a component [noise σ] below which its pattern is not known well enough."""

SMALLEST_ROW = 0.02
"""Least prior variance of a row amplitude [noise variance]."""

RING = 0.05
"""Width of a ring of frequencies [cycle/CCD pixel]."""

QUIET = 1.5
"""Mean power [noise variance] below which a ring of frequencies carries nothing."""

RESIDUAL = 0.3
"""Norm of the residual at which the solver stops [noise σ of one coefficient]."""

RADIAL_STEP = 0.5
"""Spacing of the radial profiles [CCD pixel]; smoothed over twice as much."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """A PSF field on a grid of frequencies.

    Attributes
    ----------
    coefficients : (component, frequency), images centred on pixel (0, 0)
    mixing : (function, component) float64, from the position functions to the components'
    basis : (star, component), values at the stars
    """

    coefficients: Complex[Tensor, "component frequency"]
    mixing: Float[Tensor, "function component"]
    basis: Float[Tensor, "star component"]

    def at_stars(self) -> Complex[Tensor, "star frequency"]:
        """Coefficients of the PSF of each star, before shift and flux."""
        return self.basis.to(self.coefficients.dtype) @ self.coefficients


@dataclass(frozen=True, kw_only=True)
class WhiteFunctions:
    """Position functions orthonormal under the stars' importance f²·w/D², by degree.

    Attributes
    ----------
    mixing : (function, function) float64, upper triangular, from the position functions
    values : (star, function) float64
    """

    mixing: Float[Tensor, "function function"]
    values: Float[Tensor, "star function"]

    @classmethod
    def of(
        cls, functions: Float[Tensor, "star function"], importance: Float[Tensor, " star"]
    ) -> WhiteFunctions:
        """Orthonormalise the functions in their order.

        Raises
        ------
        FitError
            The stars do not tell the functions apart.
        """
        gram = functions.T @ (importance.double()[:, None] * functions)
        factor, info = torch.linalg.cholesky_ex(gram)
        if int(info) != 0:
            msg = "the stars' positions do not determine the field: lower the degree or add stars"
            raise FitError(msg)
        mixing = torch.linalg.inv(factor).T
        return cls(mixing=mixing, values=functions @ mixing)

    def carry(self, field: Field) -> tuple[Field, Float[Tensor, "function component"]]:
        """The field on these functions: nearest orthonormal components, and their turn.

        The turn U maps components to white functions, ``mixing_field = mixing @ U``.
        """
        weight = torch.linalg.solve_triangular(self.mixing, field.mixing, upper=True)
        u, sizes, v = torch.linalg.svd(weight, full_matrices=False)
        turn = u @ v
        stretch = (v.T * sizes) @ v
        c = field.coefficients
        moved = Field(
            coefficients=stretch.to(c.dtype) @ c,
            mixing=self.mixing @ turn,
            basis=(self.values @ turn).to(c.real.dtype),
        )
        return moved, turn.to(c.real.dtype)


def rotated(field: Field, grid: FrequencyGrid, *, keep: int, smallest: float) -> Field:
    """The same field with orthogonal images, strongest first.

    At most `keep` components stay, and those after the first only if their norm exceeds
    `smallest` (in noise σ).
    """
    c = field.coefficients
    weight = grid.multiplicity.sqrt().to(c.real.dtype)
    real = torch.view_as_real(c * weight).flatten(1)
    u, norms, _ = torch.linalg.svd(real, full_matrices=False)
    rank = max(1, min(keep, int((norms > smallest).sum())))
    u = u[:, :rank]
    return Field(
        coefficients=u.T.to(c.dtype) @ c,
        mixing=field.mixing @ u.double(),
        basis=field.basis @ u,
    )


@dataclass(frozen=True, kw_only=True)
class RowPrior:
    """Gaussian prior of how much each component varies with each degree of position.

    The amplitude of white function k in the pattern of component l is known with unit noise;
    its prior variance is what the amplitudes of that degree and component exceed it by.

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
    ) -> RowPrior:
        """The prior from the field's strongest images and from images with their noise.

        Parameters
        ----------
        seen : coefficients of the field plus what the data still pull it by
        degree : (function,) total degree of each function
        strongest : number of patterns at most
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
        variance = (mean - 1).clamp(min=SMALLEST_ROW)[degree]
        return cls(patterns=patterns, turn=turn, precision=1 / variance)

    def gradient(
        self, c: Complex[Tensor, "component frequency"], grid: FrequencyGrid
    ) -> Complex[Tensor, "component frequency"]:
        """The prior's precision applied to coefficients."""
        weight = grid.multiplicity.to(c.real.dtype)
        amplitude = self.turn @ ((c * weight) @ self.patterns.mH).real
        return (self.turn.T @ (self.precision * amplitude)).to(c.dtype) @ self.patterns

    def norm(self) -> float:
        """The largest precision: patterns are orthonormal, and the turn is orthogonal."""
        return float(self.precision.max())


def noise_limit(seen: Complex[Tensor, "component frequency"], grid: FrequencyGrid) -> float | None:
    """Frequency [cycle/CCD pixel] beyond which no component rises above its noise.

    Power is averaged over rings; the limit leaves one ring more than stands out, and is None
    where even the outermost ring does.
    """
    ring = (torch.sqrt((grid.cycles**2).sum(0)) / RING).long()
    weight = grid.multiplicity
    power = torch.zeros(len(seen), int(ring.max()) + 1, dtype=weight.dtype)
    power.index_add_(1, ring, weight * seen.abs().to(weight.dtype) ** 2)
    mean = power / torch.bincount(ring, weight)
    quiet = torch.nonzero(mean.amax(0) < QUIET)
    return RING * (int(quiet[0]) + 1) if len(quiet) else None


def on_grid(field: Field, grid: FrequencyGrid, new: FrequencyGrid) -> Field:
    """The field with the frequencies of another grid of the same stamp, none of them new."""
    return replace(field, coefficients=new.coefficients(grid.image(field.coefficients)))


@dataclass(frozen=True, kw_only=True, eq=False)
class FieldProblem:
    """The stars' data as a quadratic cost of the field's coefficients.

    Each star is seen with the weight of its best pixel everywhere: what it lacks elsewhere is
    filled with the model (a majorant of the weighted cost, exact where weights are uniform,
    tightened from round to round where they are not).

    Attributes
    ----------
    grid : the field's frequencies
    gram : normal operator of the stars
    right : (component, frequency), adjoint of the filled stars
    """

    grid: FrequencyGrid
    gram: AliasGram
    right: Complex[Tensor, "component frequency"]

    @classmethod
    def of(
        cls,
        field: Field,
        pixels: StarPixels,
        values: StarValues,
        *,
        grid: FrequencyGrid,
        weight: Float[Tensor, " star"],
    ) -> FieldProblem:
        """The problem posed by stars of given flux, centre and weight about a field."""
        basis = field.basis * values.flux[:, None]
        sampling = StarSampling(grid=grid, basis=basis, dy=values.dy, dx=values.dx)
        gram = AliasGram(grid, basis, weight=weight, dy=values.dy, dx=values.dx)
        model = sampling.forward(field.coefficients)
        share = pixels.weight / pixels.full_weight[:, None, None]
        filled = model + share * (pixels.image - model)
        return cls(grid=grid, gram=gram, right=sampling.adjoint(filled * weight[:, None, None]))

    def seen(self, field: Field) -> Complex[Tensor, "component frequency"]:
        """The field with its noise: itself plus what the data still pull it by."""
        return field.coefficients + self.right - self.gram.forward(field.coefficients)


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


def solve_ridge(
    field: Field, problem: FieldProblem, prior: FieldPrior, *, max_iterations: int
) -> Field:
    """The field of highest posterior density under a quadratic prior.

    Solves ``(G + V⁻¹ + rows) c = right`` by conjugate gradient, preconditioned by the diagonal
    ``(1 + V⁻¹)⁻¹``: exact up to the coupling of aliases and the few row amplitudes.
    """
    grid = problem.grid
    precision = 1 / prior.variance
    damping = 1 / (1 + precision)

    def operator(c: Tensor) -> Tensor:
        out = problem.gram.forward(c) + grid.coefficients(precision * grid.image(c))
        return out if prior.rows is None else out + prior.rows.gradient(c, grid)

    solution, _ = conjugate_gradient(
        operator,
        problem.right,
        start=field.coefficients,
        precondition=lambda c: grid.coefficients(damping * grid.image(c)),
        inner=grid.inner,
        tolerance=RESIDUAL,
        max_iterations=max_iterations,
    )
    return replace(field, coefficients=solution)
