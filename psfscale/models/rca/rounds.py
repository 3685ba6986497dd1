"""The rounds of RCA: what a fit holds of some CCDs, and how one round moves it.

CCDs of one batch share functions of position and frequencies; all else is their own. A star
that a CCD does not have weighs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from psfscale.errors import FitError
from psfscale.kernels.spectral import complex_dtype, frequency_grid
from psfscale.models.graph_choice import function_degrees
from psfscale.models.rca.atoms import atoms_of, principal_amplitudes
from psfscale.models.rca.field import (
    Field,
    WhiteFunctions,
    leading,
    noise_limits,
    on_grid,
    rotated,
)
from psfscale.models.rca.prior import FieldPrior, RadialVariance, RowPrior
from psfscale.models.rca.ridge import FieldProblem, solve_ridge
from psfscale.models.rca.sparse import solve_sparse
from psfscale.models.rca.stars import (
    StarPixels,
    StarResiduals,
    StarValues,
    median_of,
    model_error,
    refit,
    residuals,
    standard_errors,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Complex, Float, Int
    from torch import Tensor

    from psfscale.kernels.spectral import FrequencyGrid
    from psfscale.models.graph import FieldFunctions
    from psfscale.models.position import PositionPolynomials
    from psfscale.models.rca.settings import RCASettings

__all__ = ["CcdState", "Rounds", "near", "selected"]

RIDGE_ITERATIONS = 30
SPARSE_ITERATIONS = 400
"""Of a pass of the sparse step, at most; simulated fields take 25 to 160."""

SPARSE_RESIDUAL = 0.5
"""Residual at which a pass of the sparse step ends [noise σ]; it moves a field by 8 to 20."""

STRONGEST = 12
"""Components whose variation over the field has a prior of its own."""

MOMENTUM = 0.7
"""Share of a centre's last move that is repeated; the field absorbs part of each step."""

EMPTY = 1.0
"""Norm [noise σ] below which a component of the final field carries nothing."""

UNDETERMINED = "the stars' positions do not determine the field: lower the degree or add stars"


@dataclass(kw_only=True)
class CcdState:
    """What a fit holds of each CCD.

    Attributes
    ----------
    ccd : (ccd,) which of the given CCDs
    x, y : (ccd, star) float64, of the stars, 0 where there is none [pixel]
    positions : functions of position of each CCD
    functions : (ccd, star, function) float64, their values, 0 where there is no star
    pixels, values : the stars
    refitted : values as last refitted, without momentum
    bright : (ccd, star) stars that may be used
    used : (ccd, star) those that are
    factor : (ccd, star) variance of a star against its weights
    least_error : (ccd, 1) least model error κ²
    width : (ccd,) σ of the centroid window [CCD pixel]
    field : the PSF fields
    seen : the fields with their noise
    chi2 : (ccd, star) reduced χ² of the stamp
    step : (ccd,) largest move of a used star's centre in the last round [CCD pixel]
    rank : (ccd,) components that carry something
    solved : (ccd,) whether the sparse step, where there was one, reached its tolerance
    """

    ccd: Float[Tensor, " ccd"]
    x: Float[Tensor, "ccd star"]
    y: Float[Tensor, "ccd star"]
    positions: list[PositionPolynomials] | list[FieldFunctions]
    functions: Float[Tensor, "ccd star function"]
    pixels: StarPixels
    values: StarValues
    refitted: StarValues
    bright: Bool[Tensor, "ccd star"]
    used: Bool[Tensor, "ccd star"]
    factor: Float[Tensor, "ccd star"]
    least_error: Float[Tensor, "ccd 1"]
    width: Float[Tensor, " ccd"]
    field: Field
    seen: Tensor
    chi2: Float[Tensor, "ccd star"]
    step: Float[Tensor, " ccd"]
    rank: Float[Tensor, " ccd"]
    solved: Bool[Tensor, " ccd"]


def selected(thing: Any, chosen: Tensor) -> Any:
    """The part of a state, or of what it is made of, that belongs to the chosen CCDs."""
    if isinstance(thing, torch.Tensor):
        return thing[chosen]
    if isinstance(thing, list):
        return [thing[int(i)] for i in chosen]
    parts = {f.name: selected(getattr(thing, f.name), chosen) for f in fields(thing)}
    return replace(thing, **parts)


def near(values: StarValues, grid: FrequencyGrid, reach: float) -> Bool[Tensor, "*ccd star"]:
    """Stars within so many pixels of their stamp's centre."""
    ny, nx = grid.shape
    close: Tensor = ((values.dy - ny // 2).abs() <= reach) & ((values.dx - nx // 2).abs() <= reach)
    return close


class Rounds:
    """The moving parts of a fit of CCDs that share functions and frequencies.

    Parameters
    ----------
    state : of the CCDs, with a field of no functions yet
    grid : frequencies of the fields
    failures : where CCDs that cannot go on are noted
    """

    def __init__(
        self,
        state: CcdState,
        *,
        grid: FrequencyGrid,
        settings: RCASettings,
        failures: dict[int, FitError],
    ) -> None:
        self.state, self.grid, self.settings, self.failures = state, grid, settings, failures
        image = state.pixels.image
        self.radial = RadialVariance(grid, dtype=image.dtype, device=image.device)
        degrees = function_degrees(state.functions.shape[-1])
        self.degree = torch.from_numpy(degrees).to(image.device)
        self.n_functions = state.field.mixing.shape[-1]

    def __len__(self) -> int:
        return len(self.state.ccd)

    def _leave_out(self, bad: Bool[Tensor, " ccd"], reason: str) -> None:
        """Give CCDs up, for themselves."""
        if bool(bad.any()):
            for ccd in self.state.ccd[bad].tolist():
                self.failures[ccd] = FitError(reason)
            self.state = selected(self.state, torch.nonzero(~bad)[:, 0])

    def _star_weight(self) -> tuple[Float[Tensor, "ccd star"], Float[Tensor, "ccd star"]]:
        """Inverse variance of each star's best pixel, 0 if not used; importance f²·w/D²."""
        state = self.state
        weight = torch.where(state.used, state.pixels.full_weight / state.factor, 0.0)
        return weight, weight * state.values.flux**2 / self.grid.pixel_ratio

    def with_atoms(self) -> list[Rounds]:
        """The CCDs with the frequency atoms that their stars ask for, by number of functions."""
        n = len(self.degree)
        if self.settings.spatial == "polynomial" or n == 1:
            return [self]
        white = WhiteFunctions.of(self.state.functions, self._star_weight()[1])
        enough = white.determined & (self.state.used.sum(-1) >= n)
        self._leave_out(~enough, UNDETERMINED)
        if not len(self):
            return []
        functions = self._chosen_functions()
        counts = np.array([f.n_functions for f in functions])
        return [self._on(functions, np.flatnonzero(counts == n)) for n in np.unique(counts)]

    def _chosen_functions(self) -> list[FieldFunctions]:
        state = self.state
        weight, importance = self._star_weight()
        amplitude = principal_amplitudes(
            state.field, state.pixels, state.values, grid=self.grid, weight=weight
        )
        return [
            atoms_of(
                state.x[i, used].cpu(),
                state.y[i, used].cpu(),
                importance=importance[i, used].double().cpu(),
                amplitude=amplitude[i, used].cpu(),
                degree=int(self.degree[-1]),
                box=state.positions[i].box,
                settings=self.settings,
            )
            for i, used in enumerate(state.used)
        ]

    def _on(self, functions: list[FieldFunctions], chosen: Int[np.ndarray, " ccd"]) -> Rounds:
        """The chosen CCDs on other functions than before."""
        state = selected(self.state, torch.from_numpy(chosen).to(self.state.ccd.device))
        state.positions = [functions[i] for i in chosen]
        at = zip(state.positions, state.x.cpu().numpy(), state.y.cpu().numpy(), strict=True)
        values = torch.stack([torch.from_numpy(f(x, y)) for f, x, y in at])
        # The first function is 1 where there is a star.
        state.functions = values.to(state.functions.device) * state.functions[..., :1]
        return Rounds(state, grid=self.grid, settings=self.settings, failures=self.failures)

    def grow(self) -> None:
        """Let the fields vary: add the functions not yet in them, with empty images."""
        state = self.state
        n, old = state.functions.shape[-1], state.field
        self.n_functions = n
        mixing = torch.eye(n, dtype=old.mixing.dtype, device=old.mixing.device)
        mixing = mixing.repeat(len(self), 1, 1)
        mixing[:, 0, 0] = old.mixing[:, 0, 0]
        c = old.coefficients
        empty = c.new_zeros(len(self), n - 1, c.shape[-1])
        state.field = Field(
            coefficients=torch.cat([c, empty], 1),
            mixing=mixing,
            basis=(state.functions @ mixing).to(old.basis.dtype),
        )

    def update_field(self, *, sparse: bool) -> None:
        """Solve for the images: twice a ridge, at last sparse and positive."""
        state = self.state
        weight, importance = self._star_weight()
        white = WhiteFunctions.of(state.functions[..., : self.n_functions], importance)
        if not bool(white.determined.all()):
            self._leave_out(~white.determined, UNDETERMINED)
            if len(self):
                self.update_field(sparse=sparse)
            return
        field, turn = white.carry(state.field)
        problem = FieldProblem.of(field, state.pixels, state.values, grid=self.grid, weight=weight)
        for _ in range(2):
            state.seen = problem.seen(field)
            prior = self._prior(field, turn, white.mixing, problem)
            field = solve_ridge(field, problem, prior, max_iterations=RIDGE_ITERATIONS)
        if sparse:
            field = self._sparse(field, white, weight)
        state.field = field

    def _sparse(self, field: Field, white: WhiteFunctions, weight: Tensor) -> Field:
        """The components that stand out of the noise, sparse and positive."""
        state = self.state
        field, norms = rotated(field, self.grid)
        field = leading(field, (norms > EMPTY).sum(-1).clamp(min=1))
        problem = FieldProblem.of(field, state.pixels, state.values, grid=self.grid, weight=weight)
        state.seen = problem.seen(field)
        solution = solve_sparse(
            field,
            problem,
            self._prior(field, white.turn(field).to(weight.dtype), white.mixing, problem),
            positions=self._spread_rows(field),
            settings=self.settings,
            tolerance=SPARSE_RESIDUAL,
            max_iterations=SPARSE_ITERATIONS,
        )
        state.solved = solution.convergence.converged
        return solution.field

    def _prior(
        self, field: Field, turn: Tensor, mixing: Tensor, problem: FieldProblem
    ) -> FieldPrior:
        rows = None
        if self.n_functions > 1:
            rows = RowPrior.of(
                field,
                self.state.seen,
                grid=self.grid,
                turn=turn,
                mixing=mixing,
                degree=self.degree,
                strongest=STRONGEST,
                row_sparsity=self.settings.row_sparsity,
                scatter=problem.scatter,
            )
        return FieldPrior(variance=self.radial(self.grid.image(self.state.seen)), rows=rows)

    def _spread_rows(self, field: Field) -> Float[Tensor, "ccd position component"]:
        """Values of the fields' functions on a grid of positions over the stars' range."""
        values = []
        for functions in self.state.positions:
            (x0, x1), (y0, y1) = functions.box
            x, y = np.meshgrid(np.linspace(x0, x1, 5), np.linspace(y0, y1, 5))
            values.append(torch.from_numpy(functions(x.ravel(), y.ravel())))
        rows = torch.stack(values).to(field.mixing.device) @ field.mixing
        return rows.to(field.basis.dtype)

    def narrowed(self) -> list[Rounds]:
        """The CCDs by the frequencies on which something is seen, those beyond left out."""
        known = self.grid.band_limit or float("inf")
        found = [min(known, n or known) for n in noise_limits(self.state.seen, self.grid)]
        return [
            self._with_limit(limit, torch.tensor([i for i, f in enumerate(found) if f == limit]))
            for limit in sorted(set(found))
        ]

    def _with_limit(self, limit: float, chosen: Tensor) -> Rounds:
        state, grid = selected(self.state, chosen.to(self.state.ccd.device)), self.grid
        if limit < (grid.band_limit or float("inf")):
            grid = frequency_grid(grid.shape, upsampling=grid.upsampling, band_limit=limit)
            state.field = on_grid(state.field, self.grid, grid)
        return Rounds(state, grid=grid, settings=self.settings, failures=self.failures)

    def rotate(self, *, last: bool) -> None:
        """Concentrate the fields in their strongest components; at last, drop the empty ones.

        Earlier, components below the noise stay: each little, together they are not.
        """
        state = self.state
        state.field, norms = rotated(state.field, self.grid)
        if last:
            most = self.settings.largest_rank
            state.rank = (norms > EMPTY).sum(-1).clamp(1, most)
            state.field = leading(state.field, state.rank)

    def standard_errors(self) -> StarValues:
        """Of flux and centre of each star, for the field as it is."""
        now = self.state
        return standard_errors(
            now.pixels, now.values, grid=self.grid, spectra=self._shifted(), factor=now.factor
        )

    def _shifted(self) -> Complex[Tensor, "ccd star frequency"]:
        """Each star's PSF, shifted to the star's centre."""
        state = self.state
        return state.field.at_stars() * self.grid.phases(state.values.dy, state.values.dx)

    def update_stars(self, *, weigh: bool, settling: bool) -> None:
        """Refit fluxes and centres, clip, and weigh the stars."""
        state = self.state
        values = state.values
        new, psf = refit(state.pixels, values, grid=self.grid, spectra=self._shifted())
        found = residuals(state.pixels, values, psf)
        state.chi2 = found.chi2
        usable = state.bright & (new.flux > 0) & near(new, self.grid, self.settings.max_shift)
        if weigh:
            error = model_error(found.core, found.snr2, usable)
            state.factor = 1 + torch.maximum(error, state.least_error) * found.snr2
        state.used = usable & self._consistent(found, usable)
        step = torch.maximum((new.dy - values.dy).abs(), (new.dx - values.dx).abs())
        previous, state.refitted = state.refitted, new
        state.values = new if settling else _carried(new, previous)
        state.step = torch.where(state.used, step, 0.0).amax(-1)
        lost = ~usable.any(-1)
        self._leave_out(lost, "no star keeps a positive flux near its stamp's centre")

    def _consistent(
        self, found: StarResiduals, usable: Bool[Tensor, "ccd star"]
    ) -> Bool[Tensor, "ccd star"]:
        """Stars whose residual, in noise σ, does not stand out of the others'."""
        factor, clip = self.state.factor, self.settings.clip
        excess = _excess(torch.sqrt(found.core / factor), found.scatter, usable)
        excess = torch.maximum(excess, _excess(*found.stamp(factor), usable))
        # The worst first: a bad star pulls the field away from its neighbours.
        kept = usable & self.state.used
        worst = torch.where(kept, excess, 0.0).amax(-1, keepdim=True)
        consistent: Tensor = excess < torch.where(kept, (worst / 2).clamp(min=clip), clip)
        return consistent


def _excess(residual: Tensor, scatter: Tensor, usable: Tensor) -> Float[Tensor, "ccd star"]:
    """How far residuals stand above the usual, in their own spread or in noise's if larger."""
    above = residual - median_of(residual, usable)
    spread = 1.4826 * median_of(above.abs(), usable)
    return above / torch.maximum(spread, scatter)


def _carried(new: StarValues, previous: StarValues) -> StarValues:
    """Centres carried on beyond their last move, by at most a tenth of a pixel."""
    dy, dx = ((a - b).clamp(-0.1, 0.1) for a, b in ((new.dy, previous.dy), (new.dx, previous.dx)))
    return replace(new, dy=new.dy + MOMENTUM * dy, dx=new.dx + MOMENTUM * dx)


def empty_field(
    functions: Float[Tensor, "ccd star function"], grid: FrequencyGrid, dtype: torch.dtype
) -> Field:
    """Fields of the first function alone, without an image yet."""
    n = len(functions)
    mixing = functions.new_ones(n, 1, 1)
    return Field(
        coefficients=torch.zeros(
            n, 1, len(grid), dtype=complex_dtype(dtype), device=functions.device
        ),
        mixing=mixing,
        basis=(functions[..., :1] @ mixing).to(dtype),
    )
