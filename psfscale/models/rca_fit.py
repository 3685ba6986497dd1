"""The fit of RCA: rounds of field and star parameters until both stand still."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from psfscale.errors import FitError
from psfscale.kernels.spectral import complex_dtype, frequency_grid
from psfscale.models.position import PositionPolynomials, n_polynomials
from psfscale.models.rca_field import (
    Field,
    FieldProblem,
    WhiteFunctions,
    noise_limit,
    on_grid,
    rotated,
    solve_ridge,
)
from psfscale.models.rca_prior import FieldPrior, RadialVariance, RowPrior
from psfscale.models.rca_sparse import solve_sparse
from psfscale.models.rca_stars import (
    StarPixels,
    StarResiduals,
    StarValues,
    model_error,
    refit,
    residuals,
    start_values,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from psfscale.arrays import StarBatch
    from psfscale.kernels.solvers import Convergence
    from psfscale.kernels.spectral import FrequencyGrid
    from psfscale.models.settings import RCASettings

__all__ = ["FittedField", "fit_field"]


@dataclass(frozen=True, kw_only=True)
class FittedField:
    """What a fit leaves: the field, the stars, and how it went.

    Attributes
    ----------
    field, grid, positions : the PSF field, its frequencies and its functions of position
    values : flux and centre of each star
    used : (star,) False for stars clipped or too faint
    chi2 : (star,) reduced χ² of the stamp
    variance_factor : (star,) variance of the star against its weights
    width : σ of the centroid window [CCD pixel]
    n_rounds : rounds done
    sparse : how the last sparse step ended, None where there was none
    converged : whether star centres stand still and the sparse step reached its tolerance
    """

    field: Field
    grid: FrequencyGrid
    positions: PositionPolynomials
    values: StarValues
    used: Bool[Tensor, " star"]
    chi2: Float[Tensor, " star"]
    variance_factor: Float[Tensor, " star"]
    width: float
    n_rounds: int
    sparse: Convergence | None
    converged: bool


RIDGE_ITERATIONS = 30
SPARSE_ITERATIONS = 400
"""Of a pass of the sparse step, at most; simulated fields take 25 to 160."""

SPARSE_RESIDUAL = 0.5
"""Residual at which a pass of the sparse step ends [noise σ]; it moves a field by 8 to 20."""


FREE_ROUNDS = 2
"""First rounds of a varying field, before the stars' model error can be judged."""

STRONGEST = 10
"""Components whose variation over the field has a prior of its own."""

MOMENTUM = 0.7
"""Share of a centre's last move that is repeated; the field absorbs part of each step."""

SETTLING_ROUNDS = 3
"""Last rounds, without momentum."""

EMPTY = 1.0
"""Norm [noise σ] below which a component of the final field carries nothing."""


LARGEST_STEP = 0.02
"""Move of a star's centre in the last round below which a fit has converged [pixel]."""


class _Fit:
    """The moving parts of one fit."""

    def __init__(self, stars: StarBatch, settings: RCASettings) -> None:
        self.settings = settings
        self.pixels = StarPixels.of(stars)
        self.grid = frequency_grid(
            stars.stamp_shape, upsampling=settings.upsampling, band_limit=settings.band_limit
        )
        self.values, snr, self.width = start_values(self.pixels)
        self.bright = (snr > settings.min_snr) & self._near(self.values)
        self._require_enough()
        self.used = self.bright
        self.refitted = self.values
        degree = settings.degree
        while n_polynomials(degree) > max(1, int(self.used.sum()) // 3):
            degree -= 1
        chosen = self.used.numpy()
        self.positions = PositionPolynomials.around(stars.x[chosen], stars.y[chosen], degree=degree)
        self.functions = torch.from_numpy(self.positions(stars.x, stars.y))
        n_stars, n_functions = int(self.used.sum()), self.functions.shape[1]
        self.least_error = (n_functions / (settings.snr_limit * n_stars)) ** 2
        self.factor = 1 + self.least_error * snr**2
        self.radial = RadialVariance(self.grid, dtype=snr.dtype)
        self.field = self._constant_field()
        self.sparse: Convergence | None = None

    def _near(self, values: StarValues) -> Tensor:
        ny, nx = self.grid.shape
        reach = self.settings.max_shift
        return ((values.dy - ny // 2).abs() <= reach) & ((values.dx - nx // 2).abs() <= reach)

    def _require_enough(self) -> None:
        n, needed = int(self.bright.sum()), self.settings.min_stars
        if n < needed:
            msg = (
                f"{n} of {len(self.bright)} stars have S/N above {self.settings.min_snr} and lie "
                f"within {self.settings.max_shift} pixels of their stamp's centre; RCA needs "
                f"{needed}"
            )
            raise FitError(msg)

    def _constant_field(self) -> Field:
        dtype = complex_dtype(self.pixels.image.dtype)
        self.n_functions = 1
        self.degree = torch.tensor([a + b for a, b in self.positions.degrees])
        mixing = torch.ones(1, 1, dtype=torch.float64)
        return Field(
            coefficients=torch.zeros(1, len(self.grid), dtype=dtype),
            mixing=mixing,
            basis=(self.functions[:, :1] @ mixing).to(self.pixels.image.dtype),
        )

    def grow(self) -> None:
        """Let the field vary: add the functions not yet in it, with empty images."""
        n = self.functions.shape[1]
        self.n_functions = n
        mixing = torch.eye(n, dtype=torch.float64)
        mixing[0, 0] = self.field.mixing[0, 0]
        c = self.field.coefficients
        self.field = Field(
            coefficients=torch.cat([c, c.new_zeros(n - 1, c.shape[1])]),
            mixing=mixing,
            basis=(self.functions @ mixing).to(self.field.basis.dtype),
        )

    def star_weight(self) -> Tensor:
        """Inverse variance of each star's best pixel, 0 for stars not used."""
        return torch.where(self.used, self.pixels.full_weight / self.factor, 0.0)

    def update_field(self, *, sparse: bool) -> None:
        """Solve for the images: twice a ridge, at last sparse and positive."""
        weight = self.star_weight()
        importance = weight * self.values.flux**2 / self.grid.pixel_ratio
        white = WhiteFunctions.of(self.functions[:, : self.n_functions], importance)
        self.field, turn = white.carry(self.field)
        problem = FieldProblem.of(
            self.field,
            self.pixels,
            self.values,
            grid=self.grid,
            weight=weight,
        )
        for _ in range(2):
            self.seen = problem.seen(self.field)
            prior = self._prior(turn, problem)
            self.field = solve_ridge(self.field, problem, prior, max_iterations=RIDGE_ITERATIONS)
        if sparse:
            solution = solve_sparse(
                self.field,
                problem,
                prior,
                positions=self._spread_rows(),
                settings=self.settings,
                tolerance=SPARSE_RESIDUAL,
                max_iterations=SPARSE_ITERATIONS,
            )
            self.field, self.sparse = solution.field, solution.convergence

    def _prior(self, turn: Tensor, problem: FieldProblem) -> FieldPrior:
        rows = None
        if self.n_functions > 1:
            rows = RowPrior.of(
                self.field,
                self.seen,
                grid=self.grid,
                turn=turn,
                degree=self.degree,
                strongest=STRONGEST,
                scatter=problem.scatter,
            )
        return FieldPrior(variance=self.radial(self.grid.image(self.seen)), rows=rows)

    def _spread_rows(self) -> Tensor:
        """Values of the field's functions on a grid of positions over the stars' range."""
        (x0, x1), (y0, y1) = self.positions.box
        x, y = np.meshgrid(np.linspace(x0, x1, 5), np.linspace(y0, y1, 5))
        functions = torch.from_numpy(self.positions(x.ravel(), y.ravel()))
        return (functions @ self.field.mixing).to(self.field.basis.dtype)

    def narrow(self) -> None:
        """Leave out the frequencies beyond which nothing is seen."""
        limit = noise_limit(self.seen, self.grid)
        if limit is None or limit >= (self.grid.band_limit or float("inf")):
            return
        new = frequency_grid(self.grid.shape, upsampling=self.grid.upsampling, band_limit=limit)
        self.field = on_grid(self.field, self.grid, new)
        self.grid = new
        self.radial = RadialVariance(new, dtype=self.pixels.image.dtype)

    def rotate(self, *, last: bool) -> None:
        """Concentrate the field in its strongest components; at last, drop the empty ones.

        Earlier, components below the noise stay: each little, together they are not.
        """
        keep = self.settings.largest_rank if last else self.functions.shape[1]
        self.field = rotated(self.field, self.grid, keep=keep, smallest=EMPTY if last else 0.0)

    def update_stars(self, *, weigh: bool, settling: bool) -> float:
        """Refit fluxes and centres; the largest move of a centre [pixel]."""
        spectra = self.field.at_stars() * self.grid.phases(self.values.dy, self.values.dx)
        new, psf = refit(self.pixels, self.values, grid=self.grid, spectra=spectra)
        found = residuals(self.pixels, self.values, psf)
        self.chi2 = found.chi2
        usable = self.bright & (new.flux > 0) & self._near(new)
        if not bool(usable.any()):
            msg = "no star keeps a positive flux near its stamp's centre"
            raise FitError(msg)
        if weigh:
            error = model_error(found.core[usable], found.snr2[usable])
            self.factor = 1 + max(error, self.least_error) * found.snr2
        self.used = usable & self._consistent(found, usable)
        step = torch.maximum((new.dy - self.values.dy).abs(), (new.dx - self.values.dx).abs())
        previous, self.refitted = self.refitted, new
        self.values = new if settling else _carried(new, previous)
        return float(step[self.used].max())

    def _consistent(self, found: StarResiduals, usable: Tensor) -> Tensor:
        """Stars whose residual, in noise σ, does not stand out of the others'."""
        clip = self.settings.clip
        excess = _excess(torch.sqrt(found.core / self.factor), found.scatter, usable)
        excess = torch.maximum(excess, _excess(*found.stamp(self.factor), usable))
        # The worst first: a bad star pulls the field away from its neighbours.
        kept = usable & self.used
        worst = float(excess[kept].max()) if bool(kept.any()) else 0.0
        return excess < torch.where(kept, max(clip, worst / 2), clip)


def _excess(residual: Tensor, scatter: Tensor, usable: Tensor) -> Tensor:
    """How far residuals stand above the usual, in their own spread or in noise's if larger."""
    typical = residual[usable].median()
    spread = 1.4826 * (residual[usable] - typical).abs().median()
    return (residual - typical) / torch.maximum(spread, scatter)


def _carried(new: StarValues, previous: StarValues) -> StarValues:
    """Centres carried on beyond their last move, by at most a tenth of a pixel."""
    dy, dx = ((a - b).clamp(-0.1, 0.1) for a, b in ((new.dy, previous.dy), (new.dx, previous.dx)))
    return replace(new, dy=new.dy + MOMENTUM * dy, dx=new.dx + MOMENTUM * dx)


def fit_field(stars: StarBatch, settings: RCASettings) -> FittedField:
    """Fit a PSF field to the stars of a CCD.

    Raises
    ------
    FitError
        Too few stars with signal, or their positions do not determine the field.
    """
    fit = _Fit(stars, settings)
    fit.update_field(sparse=False)
    fit.update_stars(weigh=False, settling=False)
    fit.grow()
    step = float("inf")
    for left in range(settings.n_rounds - 2, -1, -1):
        last = left == 0
        fit.update_field(sparse=last and (settings.threshold > 0 or settings.positivity))
        if left == settings.n_rounds - 2:
            fit.narrow()
        fit.rotate(last=last)
        step = fit.update_stars(
            weigh=left < settings.n_rounds - 1 - FREE_ROUNDS,
            settling=left < SETTLING_ROUNDS,
        )
    return FittedField(
        field=fit.field,
        grid=fit.grid,
        positions=fit.positions,
        values=fit.values,
        used=fit.used,
        chi2=fit.chi2,
        variance_factor=fit.factor,
        width=fit.width,
        n_rounds=settings.n_rounds,
        sparse=fit.sparse,
        converged=step < LARGEST_STEP and (fit.sparse is None or fit.sparse.converged),
    )
