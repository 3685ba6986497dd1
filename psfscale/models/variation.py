r"""How much a pattern of the PSF varies over the field, read off its amplitudes.

A pattern's coefficients in functions of position, orthonormal over the CCD, are expected to be
smaller from degree to degree, ``γ_j ~ N(0, A q^(d_j − 1))``. The stars show them in white
functions, orthonormal under their noise, ``z = R⁻¹ γ`` plus unit noise: bright stars lie where
they lie, and what a white function does far from them is not evidence. A and q are those of
highest marginal likelihood, A for each pattern and q for the CCD, so that one rotation of the
white functions, to *smooth functions*, makes the prior diagonal for all its patterns.

======  ==================================================  ==============================
symbol  name                                                unit
======  ==================================================  ==============================
z_j     amplitude of a pattern in white function j          noise σ
R       white functions from functions of position          as γ
C       Σ_j R⁻¹ q^(d_j − 1) R⁻ᵀ, scaled to 1 for degree 1   1
A, q    variance of degree 1, and its ratio from degree     noise variance, 1
        to degree, at most 1
η       functions that a component may use                  1
======  ==================================================  ==============================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

__all__ = ["Variation", "row_support"]

SMALLEST_VARIATION = 0.01
"""Least prior variance of an amplitude, that of a function a component may not use."""

DECAYS = 17
"""Trial ratios of variance between degrees, from 1 to `STEEPEST`."""

STEEPEST = 4.0
"""−ln q of the steepest trial."""

AMPLITUDES = 41
"""Trial variances of degree 1, from 0.003 to the sum of squares."""


@dataclass(frozen=True, kw_only=True)
class Variation:
    """Variance of patterns' amplitudes in smooth functions, of highest marginal likelihood.

    Attributes
    ----------
    turn : (ccd, smooth, function), orthogonal, from white to smooth functions, constant first
    variance : (ccd, smooth, pattern) [noise variance]
    evidence : (ccd, pattern), log marginal likelihood of the amplitudes, the constant's left out
    """

    turn: Float[Tensor, "*ccd smooth function"]
    variance: Float[Tensor, "*ccd smooth pattern"]
    evidence: Float[Tensor, "*ccd pattern"]

    @classmethod
    def of(
        cls,
        amplitude: Float[Tensor, "*ccd function pattern"],
        *,
        mixing: Float[Tensor, "*ccd function function"],
        degree: Int[Tensor, " function"],
        noise: Float[Tensor, "*ccd pattern"],
    ) -> Variation:
        """From amplitudes of white functions, the constant first.

        Parameters
        ----------
        amplitude : [noise σ]
        mixing : R, upper triangular
        degree : of each function of position
        noise : variance of each pattern's amplitudes that is not variation over the field, 1
            where the stars scatter by their noise only
        """
        z = amplitude.double() / noise.double()[..., None, :].sqrt()
        constant = (z[..., :1, :] ** 2 - 1).clamp(min=SMALLEST_VARIATION)
        turn, law, evidence = _best_law(z[..., 1:, :], mixing, degree)
        variance = torch.cat([constant, law.clamp(min=SMALLEST_VARIATION)], dim=-2)
        whole = torch.nn.functional.pad(turn, (1, 0, 1, 0))
        whole[..., 0, 0] = 1
        return cls(
            turn=whole.to(amplitude), variance=variance.to(amplitude), evidence=evidence.to(noise)
        )


def _best_law(
    z: Float[Tensor, "*ccd function pattern"],
    mixing: Float[Tensor, "*ccd function function"],
    degree: Int[Tensor, " function"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Smooth functions, variances and evidence under the decay that suits a CCD best."""
    inverse = torch.linalg.inv(mixing)[..., 1:, 1:]
    steps = (degree[1:] - 1).to(inverse)
    best = torch.full(z.shape[:-2], torch.inf, dtype=z.dtype, device=z.device)
    turn, law = torch.zeros_like(inverse), torch.zeros_like(z)
    costs = torch.zeros_like(z[..., 0, :])
    for decay in torch.linspace(0, STEEPEST, DECAYS).tolist():
        covariance = (inverse * torch.exp(-decay * steps)) @ inverse.mT
        scale = torch.diagonal(covariance, dim1=-2, dim2=-1)[..., :2].mean(-1)
        values, vectors = torch.linalg.eigh(covariance / scale[..., None, None])
        smooth = vectors.flip(-1).mT
        trial, cost = _amplitudes(smooth @ z, values.flip(-1).clamp(min=0))
        better = cost.sum(-1) < best
        best = torch.where(better, cost.sum(-1), best)
        turn = torch.where(better[..., None, None], smooth, turn)
        law = torch.where(better[..., None, None], trial, law)
        costs = torch.where(better[..., None], cost, costs)
    return turn, law, -0.5 * costs


def _amplitudes(
    seen: Float[Tensor, "*ccd smooth pattern"], shape: Float[Tensor, "*ccd smooth"]
) -> tuple[Float[Tensor, "*ccd smooth pattern"], Float[Tensor, "*ccd pattern"]]:
    """Variances A·shape that explain amplitudes best, and −2·log likelihood."""
    square = seen**2
    largest = square.sum(-2).clamp(min=1.0)
    steps = torch.linspace(0, 1, AMPLITUDES, dtype=seen.dtype, device=seen.device)
    trial = 0.003 * (largest / 0.003)[..., None, :] ** steps[:, None]
    variance = 1 + trial[..., None, :] * shape[..., None, :, None]
    cost = (torch.log(variance) + square[..., None, :, :] / variance).sum(-2)
    lowest, where = cost.min(-2)
    found = trial.gather(-2, where[..., None, :])
    return found * shape[..., None], lowest


def row_support(
    square: Float[Tensor, "*ccd function pattern"],
    variance: Float[Tensor, "*ccd function pattern"],
    *,
    most: int | None,
) -> Bool[Tensor, "*ccd function pattern"]:
    """The functions each pattern uses: the constant, and the η − 1 others that gain most.

    Parameters
    ----------
    square : squared amplitudes [noise variance]
    variance : their prior variance if used, 0 if not
    most : η; None for that of highest marginal likelihood, every choice of η functions being
        as likely beforehand as every η
    """
    full = 1 + variance[..., 1:, :]
    gain = square[..., 1:, :] * (1 - 1 / full) - torch.log(full)
    order = gain.argsort(dim=-2, descending=True)
    if most is None:
        n = gain.shape[-2]
        k = torch.arange(n + 1, dtype=gain.dtype, device=gain.device)
        choices = torch.lgamma(k[-1] + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
        total = torch.nn.functional.pad(gain.gather(-2, order).cumsum(-2), (0, 0, 1, 0))
        others = (total - 2 * choices[:, None]).argmax(-2, keepdim=True)
    else:
        others = torch.full_like(order[..., :1, :], most - 1)
    used = order.argsort(dim=-2) < others
    return torch.cat([torch.ones_like(used[..., :1, :]), used], dim=-2)
