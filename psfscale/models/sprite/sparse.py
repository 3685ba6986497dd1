r"""SPRITE's correction of a first guess: sparse in Φ, the PSF positive, solved to convergence.

``min over Δ of 1/2 Σ_k ‖y_k − M_k(x0 + Δ)‖² w_k + κ ‖w ⊙ Λ ⊙ ΦΔ‖_1``, x0 + Δ ≥ 0, for each of
a few reweightings (A&A 575, A86, eq. 24-27). The alternating direction method splits ΦΔ and Δ
off; what is left is one small linear system per frequency of a stamp, solved exactly.

======  ==================================================  =============================
symbol  name                                                unit
======  ==================================================  =============================
x0, Δ   first guess and its correction                      1, a PSF of unit sum
Φ       analysis transform, bands φ_b                       1
Λ       noise of ``Φ Σ_k M_kᵀ w_k n_k``, per coefficient    1
κ       threshold in units of that noise                    1
w       weights, ``1 / (1 + |ΦΔ| T / (κΛ))``                1
T       information: diagonal of the normal operator        1
ρ       penalty of the splitting, a share of T              as T
======  ==================================================  =============================

Stamps whose pixels do not all weigh the same are taken at their largest weight inside the
system, and the difference is made up from one iteration to the next (proximal variant).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from psfscale.kernels.optimize.prox import soft_threshold
from psfscale.kernels.spectral import complex_dtype, frequency_grid
from psfscale.models.dictionary import dictionary
from psfscale.models.sprite.bayes import inner
from psfscale.models.sprite.data import alias_blocks
from psfscale.models.sprite.planes import FilterPlanes

if TYPE_CHECKING:
    from jaxtyping import Bool, Complex, Float
    from torch import Tensor

    from psfscale.models.sprite.data import StampTerm
    from psfscale.models.sprite.settings import SPRITESettings

__all__ = ["Corrected", "coefficient_noise", "corrected"]

PENALTY = 3.0
"""ρ/T."""

RELAXATION = 1.6
"""Over-relaxation of the splitting; converges below 2."""


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """The corrected PSFs and how the last pass ended.

    Attributes
    ----------
    psf : (psf, y, x) on the fine grid; not negative where positivity is held
    n_iterations : (psf,) over all passes
    converged : (psf,) whether the last pass reached its tolerance
    """

    psf: Float[Tensor, "psf y x"]
    n_iterations: Float[Tensor, " psf"]
    converged: Bool[Tensor, " psf"]


def coefficient_noise(
    term: StampTerm, filters: Complex[Tensor, "band frequency"], *, propagated: bool
) -> Float[Tensor, "psf band y x"]:
    """Λ: standard deviation of the noise of ``Φ Σ_k M_kᵀ w_k n_k``.

    Propagated through the operator, weights and masks included, coefficient by coefficient, or
    its mean over each band.
    """
    grid, weight = term.grid, term.stamps.weight
    # Squares of images hold twice their frequencies.
    double = frequency_grid(grid.shape, upsampling=2 * grid.upsampling) if propagated else grid
    impulse = weight.new_zeros(grid.shape)
    impulse[0, 0] = 1
    unit = grid.sample_adjoint(impulse) * filters.to(complex_dtype(weight.dtype))
    ny, nx = (3 * n for n in grid.fine_shape)
    kernel = double.coefficients(grid.image(unit, (ny, nx)) ** 2)
    spectra = double.sample_adjoint(weight * term.amplitude[..., None, None] ** 2)
    shown = (spectra * double.phases(term.dy, term.dx).conj()).sum(1)
    scale = math.sqrt(double.pixel_ratio * math.prod(grid.shape))
    variance = double.image(kernel * shown[:, None] * scale, (ny, nx))[..., ::3, ::3]
    mean = variance.mean((-2, -1), keepdim=True).clamp(min=torch.finfo(variance.dtype).tiny)
    if not propagated:
        return mean.sqrt()
    return torch.maximum(variance, 1e-3 * mean).sqrt()


class _Splitting:
    """The moving parts of one pass."""

    def __init__(
        self,
        term: StampTerm,
        first: Complex[Tensor, "psf frequency"],
        filters: Complex[Tensor, "band frequency"],
        *,
        positivity: bool,
        scale: Float[Tensor, " psf"],
    ) -> None:
        self.term, self.positivity = term, positivity
        self.phi = FilterPlanes(term.grid, filters)
        self.guess = term.grid.image(first)
        self.pull = term.right() - term.normal(first)
        self.weight = term.grid.multiplicity.to(self.guess)
        self.scale = scale
        self.rho = (PENALTY * term.information)[:, None]
        self.inverse = self._inverse((filters.abs() ** 2).sum(0) + 1)
        self.delta = torch.zeros_like(first)
        shape = (len(first), len(filters), *self.guess.shape[1:])
        self.bands, self.band_dual = self.guess.new_zeros(shape), self.guess.new_zeros(shape)
        self.image, self.image_dual = torch.zeros_like(self.guess), torch.zeros_like(self.guess)
        self.n_iterations = self.guess.new_zeros(len(first))

    def _inverse(self, power: Float[Tensor, " frequency"]) -> Tensor:
        """Inverses of the blocks of ``G + ρ (ΦᵀΦ + 1)``."""
        alias = alias_blocks(self.term.grid)
        blocks = self.term.blocks
        spread = alias.gather(power.to(blocks)) + (~alias.valid).to(blocks)
        inverse: Tensor = torch.linalg.inv(blocks + torch.diag_embed(self.rho[..., None] * spread))
        return inverse

    def _solve(self) -> Complex[Tensor, "psf frequency"]:
        """The correction of least cost, what is split off held."""
        term = self.term
        image = term.grid.coefficients(self.image - self.image_dual)
        right = self.pull + self.rho * (self.phi.adjoint(self.bands - self.band_dual) + image)
        if not term.uniform:
            right = right + term.bound(self.delta) - term.normal(self.delta)
        alias = alias_blocks(term.grid)
        return alias.scatter((self.inverse @ alias.gather(right)[..., None])[..., 0])

    def step(self, threshold: Tensor, active: Bool[Tensor, " psf"]) -> Float[Tensor, " psf"]:
        """One iteration for the active PSFs; their residuals in units of the noise."""
        delta = self._solve()
        moved = inner(self.weight, delta - self.delta, delta - self.delta)[..., 0].sqrt()
        image = self.term.grid.image(delta)
        mixed = RELAXATION * image + (1 - RELAXATION) * self.image + self.image_dual
        split = torch.maximum(mixed, -self.guess) if self.positivity else mixed
        gap = (image - split).flatten(1).norm(dim=1)
        analysed = self.phi.forward(delta)
        mixed_bands = RELAXATION * analysed + (1 - RELAXATION) * self.bands + self.band_dual
        bands = soft_threshold(mixed_bands, threshold / self.rho[..., None, None])
        one, two, three = active[:, None], active[:, None, None], active[:, None, None, None]
        self.delta = torch.where(one, delta, self.delta)
        self.image_dual = torch.where(two, mixed - split, self.image_dual)
        self.image = torch.where(two, split, self.image)
        self.band_dual = torch.where(three, mixed_bands - bands, self.band_dual)
        self.bands = torch.where(three, bands, self.bands)
        self.n_iterations = self.n_iterations + active
        return torch.maximum(moved, gap) / self.scale


def corrected(
    term: StampTerm,
    first: Complex[Tensor, "psf frequency"],
    *,
    settings: SPRITESettings,
    noise_norm: Float[Tensor, " psf"],
    coarse_free: bool,
) -> Corrected:
    """The PSFs of least cost near a first guess.

    Parameters
    ----------
    term : data term at the stars' final values
    first : (psf, frequency), x0
    noise_norm : (psf,) norm of the noise of a PSF, in which convergence is measured
    coarse_free : leave the coarse band of the correction without a penalty, as the paper does;
        a first guess that already weighs noise against signal at all scales wants it penalised
    """
    filters = dictionary(term.grid, settings).filters_like(first)
    noise = coefficient_noise(term, filters, propagated=settings.noise == "propagated")
    split = _Splitting(term, first, filters, positivity=settings.positivity, scale=noise_norm)
    bound = settings.threshold * noise
    weight = torch.ones_like(noise)
    information = term.information[:, None, None, None]
    done = torch.zeros(len(first), dtype=torch.bool, device=first.device)
    for _ in range(settings.n_reweights + 1):
        threshold = bound * weight
        if coarse_free:
            threshold = torch.cat([threshold[:, :-1], torch.zeros_like(threshold[:, -1:])], 1)
        done = torch.zeros_like(done)
        for _ in range(settings.max_iterations):
            residual = split.step(threshold, ~done)
            done = done | (residual < settings.tolerance)
            if bool(done.all()):
                break
        seen = split.phi.forward(split.delta).abs()
        weight = 1 / (1 + seen * information / bound.clamp(min=torch.finfo(bound.dtype).tiny))
    change = split.image if settings.positivity else term.grid.image(split.delta)
    return Corrected(psf=split.guess + change, n_iterations=split.n_iterations, converged=done)
