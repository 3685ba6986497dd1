r"""The PSF of highest posterior density, its variances learned, its stars refitted on the way.

The posterior mean is ``x = C z`` with ``(I + G C) z = Σ_k M_kᵀ w_k y_k``; the same system with
another right side gives a draw of the posterior about its mean. Both are solved at once by
conjugate gradients in the inner product of C, in which the system is self-adjoint; a residual
of norm 1 there is one σ of the noise. The system's eigenvalues are squared signal-to-noise
ratios: residuals are kept orthogonal explicitly, or rounding would grow by as much.

======  ==================================================  =============================
symbol  name                                                unit
======  ==================================================  =============================
C       prior covariance, see `prior`                       1
G       normal operator of the data, see `data`              1
z       dual image                                          1
======  ==================================================  =============================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from psfscale.models.sprite.prior import BandParts, PriorBasis, PriorVariance

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Complex, Float
    from torch import Tensor

    from psfscale.kernels.spectral import FrequencyGrid
    from psfscale.models.sprite.data import StampTerm

__all__ = ["SparsePosterior", "batched_conjugate_gradient", "inner", "norms", "posterior"]

DRAW_TOLERANCE = 1.0
"""Residual of a draw [noise σ]: it only feeds mean squares."""


@dataclass(frozen=True, kw_only=True)
class SparsePosterior:
    """Posterior mean of a batch of PSFs and one draw about it.

    Attributes
    ----------
    dual : (2, psf, frequency), z of the mean and of the draw, to start from next time
    mean, draw : (psf, frequency)
    mean_parts, draw_parts : the same, band by band and ring by ring
    before : parts of the draw of the prior that the posterior's draw came from
    residual : (psf,) of the solver for the mean [noise σ]
    """

    dual: Complex[Tensor, "2 psf frequency"]
    mean: Complex[Tensor, "psf frequency"]
    draw: Complex[Tensor, "psf frequency"]
    mean_parts: BandParts
    draw_parts: BandParts
    before: BandParts
    residual: Float[Tensor, " psf"]


def inner(weight: Tensor, a: Tensor, b: Tensor) -> Float[Tensor, "*batch 1"]:
    """Inner products of images in coefficients, image by image."""
    return (weight * (a.real * b.real + a.imag * b.imag)).sum(-1, keepdim=True)


def norms(c: Complex[Tensor, "*batch frequency"], grid: FrequencyGrid) -> Float[Tensor, "*batch"]:
    """Norms of images in coefficients."""
    return inner(grid.multiplicity.to(c.device, c.real.dtype), c, c)[..., 0].sqrt()


def batched_conjugate_gradient(
    operator: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    start: Tensor,
    metric: Callable[[Tensor], Tensor],
    weight: Tensor,
    tolerance: float,
    max_iterations: int,
) -> tuple[Tensor, Tensor]:
    """Solutions of ``x + operator(metric(x)) = b``, image by image.

    Conjugate gradients in the inner product of `metric`, in which each residual is kept
    orthogonal to all before it. Each image stops by itself, where its residual's norm falls
    below `tolerance`, so that a batch gives what its images give alone.

    Returns
    -------
    x and the norm of the residual of each image
    """
    x = start
    r = b - x - operator(metric(x))
    mr = metric(r)
    p, mp = r, mr
    rr = inner(weight, mr, r)
    past = _Residuals(r, weight=weight, room=max_iterations)
    for _ in range(max_iterations):
        active = rr > tolerance**2
        if not bool(active.any()):
            break
        past.append(r, mr, rr)
        q = p + operator(mp)
        step = torch.where(active, rr / inner(weight, mp, q), 0.0)
        x, r = x + step * p, r - step * q
        r, mr = past.orthogonal(r, metric(r))
        rr, previous = torch.where(active, inner(weight, mr, r), rr), rr
        turn = rr / previous
        p, mp = torch.where(active, r + turn * p, p), torch.where(active, mr + turn * mp, mp)
    return x, torch.sqrt(rr.clamp(min=0))[..., 0]


def _complex(flat: Tensor) -> Tensor:
    """Coefficients from their real and imaginary parts in turn."""
    return torch.view_as_complex(flat.reshape(*flat.shape[:-1], -1, 2))


class _Residuals:
    """Residuals of earlier iterations, of unit norm, and their metric images."""

    def __init__(self, like: Tensor, *, weight: Tensor, room: int) -> None:
        shape = (*like.shape[:-1], room, 2 * like.shape[-1])
        self._weight = weight.repeat_interleave(2)
        self._r = torch.empty(shape, dtype=weight.dtype, device=weight.device)
        self._mr = torch.empty_like(self._r)
        self._n = 0

    def append(self, r: Tensor, mr: Tensor, rr: Tensor) -> None:
        """Keep a residual of squared norm `rr`."""
        scale = rr.clamp(min=torch.finfo(rr.dtype).tiny).rsqrt()
        self._r[..., self._n, :] = torch.view_as_real(r).flatten(-2) * scale
        self._mr[..., self._n, :] = torch.view_as_real(mr).flatten(-2) * scale
        self._n += 1

    def orthogonal(self, r: Tensor, mr: Tensor) -> tuple[Tensor, Tensor]:
        """A residual and its metric image without what the kept ones span."""
        old, old_image = self._r[..., : self._n, :], self._mr[..., : self._n, :]
        seen = (torch.view_as_real(r).flatten(-2) * self._weight)[..., None]
        share = (old_image @ seen).mT
        rest = [
            _complex(v - (share @ basis)[..., 0, :])
            for v, basis in (
                (torch.view_as_real(r).flatten(-2), old),
                (torch.view_as_real(mr).flatten(-2), old_image),
            )
        ]
        return rest[0], rest[1]


def posterior(
    term: StampTerm,
    prior: PriorVariance,
    *,
    basis: PriorBasis,
    start: Complex[Tensor, "2 psf frequency"],
    white: tuple[Float[Tensor, "y x"], BandParts],
    tolerance: float,
    max_iterations: int,
) -> SparsePosterior:
    """Posterior mean and one draw about it, for given variances and stars.

    Parameters
    ----------
    start : dual images to start from
    white : white noise of the data and of the prior's parts, the same for all PSFs
    """
    variance = basis.variance(prior)
    weight = basis.grid.multiplicity.to(variance)

    def covariance(c: Tensor) -> Tensor:
        return basis.join(basis.split(c, variance=variance, ring=prior.ring))

    before = BandParts(band=variance.sqrt() * white[1].band, ring=prior.ring.sqrt() * white[1].ring)
    prior_draw = term.noise(white[0]) - term.normal(basis.join(before))
    solved = [
        batched_conjugate_gradient(
            term.normal,
            right,
            start=first,
            metric=covariance,
            weight=weight,
            tolerance=precision,
            max_iterations=max_iterations,
        )
        for right, first, precision in (
            (term.right(), start[0], tolerance),
            (prior_draw, start[1], max(tolerance, DRAW_TOLERANCE)),
        )
    ]
    dual = torch.stack([solution for solution, _ in solved])
    residual = solved[0][1]
    parts = basis.split(dual, variance=variance, ring=prior.ring)
    mean = BandParts(band=parts.band[0], ring=parts.ring[0])
    draw = BandParts(band=before.band + parts.band[1], ring=before.ring + parts.ring[1])
    return SparsePosterior(
        dual=dual,
        mean=basis.join(mean),
        draw=basis.join(draw),
        mean_parts=mean,
        draw_parts=draw,
        before=before,
        residual=residual,
    )
