"""SPRITE's rounds: PSF, learned variances and stars in turn, until the PSF stands still."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from psfscale.kernels.centroid import windowed_centroid
from psfscale.kernels.spectral import complex_dtype
from psfscale.models.sprite.bayes import SparsePosterior, norms, posterior
from psfscale.models.sprite.data import StampTerm
from psfscale.models.sprite.prior import BandParts, PriorBasis, PriorVariance, prior_basis
from psfscale.models.sprite.stars import StampValues, refitted, start_values

if TYPE_CHECKING:
    from jaxtyping import Bool, Complex, Float
    from torch import Tensor

    from psfscale.kernels.spectral import FrequencyGrid
    from psfscale.models.sprite.data import Stamps
    from psfscale.models.sprite.settings import SPRITESettings
    from psfscale.models.sprite.stars import Fixed

__all__ = ["Registered", "register"]

PROFILE_ROUNDS = 4
"""Refits of the stars against the round profile alone, which cannot absorb their errors."""

FIRST_ITERATIONS = (12, 12, 20)
"""Solver iterations of the first rounds, whose variances are rough; 40 later."""

LATER_ITERATIONS = 40

SOLVER_TOLERANCE = 0.5
"""Residual at which a solve ends [noise σ]; the noise of a PSF has a norm of 5 to 20."""

RELAXATION = 1.5
"""Length of a star's step in units of Gauss-Newton's; the PSF absorbs part of each step."""

NOISE_SEED = 20240229


@dataclass(frozen=True, kw_only=True)
class Registered:
    """PSFs of highest posterior density, centred and of unit sum, and their stars.

    Attributes
    ----------
    psf : (psf, frequency), centred on pixel (0, 0)
    draw : (psf, frequency), one draw of the posterior about `psf`
    values : amplitude and centre of each stamp's star
    width : (psf,) σ of the window that defines the centroid [CCD pixel]
    n_rounds : (psf,) rounds done
    settled : (psf,) whether the PSF stood still at the end
    """

    psf: Complex[Tensor, "psf frequency"]
    draw: Complex[Tensor, "psf frequency"]
    values: StampValues
    width: Float[Tensor, " psf"]
    n_rounds: Float[Tensor, " psf"]
    settled: Bool[Tensor, " psf"]


@dataclass(kw_only=True)
class _State:
    """What the rounds move."""

    values: StampValues
    prior: PriorVariance
    dual: Complex[Tensor, "2 psf frequency"]
    psf: Complex[Tensor, "psf frequency"]
    draw: Complex[Tensor, "psf frequency"]
    n_rounds: Float[Tensor, " psf"]
    settled: Bool[Tensor, " psf"]


def _white(basis: PriorBasis, like: Tensor) -> tuple[Tensor, BandParts]:
    """White noise for the draws: of the data, of the bands, of the rings."""
    generator = torch.Generator().manual_seed(NOISE_SEED)
    shape = basis.grid.fine_shape
    sizes = (shape, (len(basis.bands), *shape), (len(basis.rings),))
    data, band, ring = (torch.randn(s, generator=generator, dtype=torch.float64) for s in sizes)
    return data.to(like), BandParts(band=band.to(like), ring=ring.to(like))


def _profile(term: StampTerm, prior: PriorVariance, basis: PriorBasis) -> Tensor:
    """The round profile alone, of highest posterior density."""
    weight = basis.grid.multiplicity.to(basis.rings)
    rings = basis.rings.to(complex_dtype(basis.rings.dtype))
    seen = term.normal(rings[:, None, :].expand(-1, len(term.amplitude), -1)).real
    normal = torch.einsum("qpf,rf,f->pqr", seen, basis.rings, weight)
    right = (term.right().real * weight) @ basis.rings.T
    system = normal + torch.diag_embed(1 / prior.ring)
    ring: Tensor = torch.linalg.solve(system, right)
    return (ring @ basis.rings).to(rings.dtype)


class _Rounds:
    """One batch of PSFs on its way."""

    def __init__(
        self, stamps: Stamps, fixed: Fixed, grid: FrequencyGrid, s: SPRITESettings
    ) -> None:
        image = stamps.image
        self.stamps, self.fixed, self.grid, self.settings = stamps, fixed, grid, s
        self.uniform = stamps.uniform
        self.basis = prior_basis(grid, dtype=image.dtype, device=image.device)
        self.white = _white(self.basis, image)
        values, self.width = start_values(stamps, pixel_ratio=grid.pixel_ratio)
        n = len(image)
        empty = image.new_zeros(n, len(grid), dtype=complex_dtype(image.dtype))
        self.state = _State(
            values=fixed.laid_over(values),
            prior=self.basis.start(n, width=self.width),
            dual=torch.stack([empty, empty]),
            psf=empty,
            draw=empty,
            n_rounds=image.new_zeros(n),
            settled=torch.zeros(n, dtype=torch.bool, device=image.device),
        )
        # The profile first: a term needs positive amplitudes.
        floor = values.amplitude.abs().amax(1, keepdim=True).clamp(min=1e-12) * 1e-2
        start = self.state.values
        amplitude = torch.where(stamps.present, torch.maximum(start.amplitude, floor), floor)
        self.state.values = StampValues(amplitude=amplitude, dy=start.dy, dx=start.dx)

    def term(self) -> StampTerm:
        """The data term at the stars' present values."""
        values = self.state.values
        return StampTerm.at(
            self.stamps,
            grid=self.grid,
            amplitude=values.amplitude,
            dy=values.dy,
            dx=values.dx,
            uniform=self.uniform,
        )

    def refit(self, psf: Tensor, *, relaxation: float, hold: Tensor) -> None:
        """Move the stars of the PSFs not held."""
        old = self.state.values
        new = refitted(
            self.stamps,
            old,
            grid=self.grid,
            psf=psf,
            relaxation=relaxation,
            max_shift=self.settings.max_shift,
        )
        self.state.values = old.where(hold, self.fixed.laid_over(new))

    def profile_rounds(self) -> None:
        """Register the stars on their common round profile."""
        hold = torch.zeros_like(self.state.settled)
        for _ in range(PROFILE_ROUNDS):
            psf = _profile(self.term(), self.state.prior, self.basis)
            self.refit(psf, relaxation=1.0, hold=hold)

    def round(self, index: int) -> None:
        """Solve for the PSFs; learn variances and refit stars of those that still move."""
        state = self.state
        iterations = (*FIRST_ITERATIONS, LATER_ITERATIONS)[min(index, len(FIRST_ITERATIONS))]
        new = posterior(
            self.term(),
            state.prior,
            basis=self.basis,
            start=state.dual,
            white=self.white,
            tolerance=SOLVER_TOLERANCE,
            max_iterations=iterations,
        )
        held = state.settled
        still = self._stands_still(new) & (index >= len(FIRST_ITERATIONS))
        state.psf = torch.where(held[:, None], state.psf, new.mean)
        state.draw = torch.where(held[:, None], state.draw, new.draw)
        state.dual = torch.where(held[:, None], state.dual, new.dual)
        state.n_rounds = state.n_rounds + (~held).to(state.n_rounds)
        state.settled = held | still
        learned = self.basis.learned(
            state.prior, mean=new.mean_parts, draw=new.draw_parts, before=new.before
        )
        state.prior = state.prior.where(state.settled, learned)
        self.refit(state.psf, relaxation=RELAXATION, hold=state.settled)

    def _stands_still(self, new: SparsePosterior) -> Bool[Tensor, " psf"]:
        change = norms(new.mean - self.state.psf, self.grid)
        small = change < self.settings.round_tolerance * norms(new.draw, self.grid)
        return small & (new.residual <= SOLVER_TOLERANCE)

    def finished(self) -> Registered:
        """Unit sums, centroids on pixel (0, 0); the stars' values follow."""
        state, grid = self.state, self.grid
        values = state.values
        zero = int(((grid.ky == 0) & (grid.kx == 0)).nonzero()[0][0])
        total = state.psf[:, zero].real * math.sqrt(math.prod(grid.fine_shape))
        dy, dx = _centroid(grid, state.psf, width=self.width)
        back = grid.phases(-dy, -dx) / total[:, None]
        scale = total[:, None]
        error = values.error
        if error is not None:
            error = torch.stack([error[..., 0] * scale, error[..., 1], error[..., 2]], -1)
        return Registered(
            psf=state.psf * back,
            draw=state.draw * back,
            values=StampValues(
                amplitude=values.amplitude * scale,
                dy=values.dy + dy[:, None],
                dx=values.dx + dx[:, None],
                error=error,
            ),
            width=self.width,
            n_rounds=state.n_rounds,
            settled=state.settled,
        )


def _centroid(
    grid: FrequencyGrid, psf: Tensor, *, width: Float[Tensor, " psf"]
) -> tuple[Tensor, Tensor]:
    """Windowed centroids from pixel (0, 0) [CCD pixel]."""
    ny, nx = (n * grid.upsampling for n in grid.shape)
    fine = grid.upsampling
    half = [torch.tensor(n // 2 / fine).to(width) for n in (ny, nx)]
    images = grid.image(psf * grid.phases(half[0], half[1]), (ny, nx))
    cy, cx = windowed_centroid(images, width=width * fine, n_iterations=20)
    return cy / fine - half[0], cx / fine - half[1]


def register(
    stamps: Stamps, fixed: Fixed, *, grid: FrequencyGrid, settings: SPRITESettings
) -> Registered:
    """PSFs and stars of a batch, estimated together."""
    rounds = _Rounds(stamps, fixed, grid, settings)
    rounds.profile_rounds()
    for index in range(settings.n_rounds):
        rounds.round(index)
        if bool(rounds.state.settled.all()):
            break
    return rounds.finished()
