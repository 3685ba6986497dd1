r"""Singular values of a matrix of images thresholded, without a singular value decomposition.

======  =====================================================  =========
symbol  name                                                   unit
======  =====================================================  =========
A       matrix with one image a row, (object, pixel)           any
s_i     singular values of A                                   as A
u_i     left singular vectors: coefficients of the objects     1
T       threshold                                              as A
======  =====================================================  =========

``Σ_i (f(s_i)/s_i) u_i u_iᵀ A`` needs the u_i with s_i ≥ T alone. They come from the
eigen-decomposition of the smaller Gram matrix, in float64 because a threshold decides on them;
or, where A is the next of a sequence and large, from a Rayleigh-Ritz step in the image under A of
the last right singular vectors (subspace iteration), a few of those below the threshold among
them so that a newcomer is seen.

Three rules f: ``"soft"``, s − T; ``"hard"``, s as it is; ``"firm"``, which rises from 0 at T to s
at ``end``·T and stays there. A hard threshold inside a splitting has no rest: a value that the
data alone hold between nothing and T comes and goes for ever. The firm one settles at what the
hard one circles round, and leaves large values alone as it does. It is the proximal operator of
the minimax concave penalty (Gao & Bruce 1997, Stat. Sin. 7, 855; Zhang 2010, Ann. Stat. 38, 894),
``end`` that penalty's γ over the step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = [
    "SingularThreshold",
    "ThresholdKind",
    "nuclear_norm",
    "singular_values",
    "threshold_gain",
]

EXACT_SIDE = 160
"""Matrices whose smaller side is up to this are always decomposed."""

GRAM_BLOCK = 256
"""Columns that are taken to float64 together."""

SPARE = 12
"""Singular vectors below the threshold that are followed."""

LEAST_SPARE = 3
"""Fewer below the threshold than this, and newcomers may have been missed."""

FIRST_WIDTH = 64
"""Dimensions of the random space that singular vectors are first sought in."""

POWERS = 2
"""Multiplications with A Aᵀ that turn a random space towards the largest singular values."""

FIRM_END = 1.5
"""Where a firm threshold leaves values as they are, at the least [T]."""

ThresholdKind = Literal["hard", "soft", "firm"]


def threshold_gain(
    s: Tensor, threshold: Tensor | float, *, kind: ThresholdKind, end: float
) -> Tensor:
    """f(s)/s of values s ≥ T."""
    if kind == "hard":
        return torch.ones_like(s)
    shrunk = 1 - threshold / s
    if kind == "soft":
        return shrunk
    end = max(end, FIRM_END)
    return (shrunk * (end / (end - 1))).clamp(max=1)


def _gram(a: Float[Tensor, "object pixel"]) -> Float[Tensor, "side side"]:
    """The smaller of A Aᵀ and AᵀA, float64."""
    side = min(a.shape)
    wide = a if a.shape[0] == side else a.T
    gram = torch.zeros(side, side, dtype=torch.float64, device=a.device)
    for first in range(0, wide.shape[1], GRAM_BLOCK):
        columns = wide[:, first : first + GRAM_BLOCK].double()
        gram.addmm_(columns, columns.T)
    return gram


def singular_values(a: Float[Tensor, "object pixel"]) -> Float[Tensor, " side"]:
    """Singular values, largest first; those below 1e-8 of the largest are inexact."""
    square: Tensor = torch.linalg.eigvalsh(_gram(a))
    return square.clamp(min=0).sqrt().flip(0)


def nuclear_norm(a: Float[Tensor, "object pixel"]) -> float:
    """Sum of the singular values."""
    return float(singular_values(a).sum())


class SingularThreshold:
    """Matrices of a sequence with their singular values thresholded.

    Parameters
    ----------
    kind : ``"hard"``, ``"soft"`` or ``"firm"``
    follow : whether to follow the singular vectors from one large matrix to the next, for a
        sequence that changes little by little; else each is decomposed
    """

    def __init__(self, kind: ThresholdKind, *, follow: bool = True) -> None:
        self.kind = kind
        self.follow = follow
        self.rank = 0
        self._right: Tensor | None = None

    def __call__(
        self, a: Float[Tensor, "object pixel"], threshold: float, *, end: float = FIRM_END
    ) -> Float[Tensor, "object pixel"]:
        """A with its singular values thresholded; `rank` then says how many are left."""
        left, right = self._kept(a, threshold, end)
        return left @ right

    def excess(
        self, a: Float[Tensor, "object pixel"], threshold: float, *, end: float = FIRM_END
    ) -> Float[Tensor, "object pixel"]:
        """What the threshold takes away from A."""
        left, right = self._kept(a, threshold, end)
        return torch.addmm(a, left, right, alpha=-1)

    def _kept(self, a: Tensor, threshold: float, end: float) -> tuple[Tensor, Tensor]:
        """The thresholded matrix as a product."""
        if not self.follow or min(a.shape) <= EXACT_SIDE:
            return self._decomposed(a, threshold, end, remember=False)
        out = None if self._right is None else self._followed(a, self._right, threshold, end)
        if out is None:
            out = self._sought(a, threshold, end)
        return self._decomposed(a, threshold, end, remember=True) if out is None else out

    def _gain(self, s: Float[Tensor, " value"], threshold: float, end: float) -> Tensor:
        return threshold_gain(s, threshold, kind=self.kind, end=end)

    def _decomposed(
        self, a: Tensor, threshold: float, end: float, *, remember: bool
    ) -> tuple[Tensor, Tensor]:
        square, vectors = torch.linalg.eigh(_gram(a))
        s = square.clamp(min=0).sqrt()
        self.rank = int((s >= threshold).sum())
        top = vectors[:, len(s) - self.rank :]
        gain = self._gain(s[len(s) - self.rank :], threshold, end)
        by_object = a.shape[0] <= a.shape[1]
        if remember:
            near = vectors[:, -(self.rank + SPARE) :]
            self._right = a.T @ near.to(a) if by_object else near.to(a)
        weighted, top = (top * gain).to(a), top.to(a)
        return (weighted, top.T @ a) if by_object else (a @ weighted, top.T)

    def _sought(self, a: Tensor, threshold: float, end: float) -> tuple[Tensor, Tensor] | None:
        """The same from what is known and a random space; None where that would be too wide.

        The space is drawn on the side of the pixels: the order of the objects is immaterial.
        """
        known = a.new_empty((a.shape[1], 0)) if self._right is None else self._right
        width = max(FIRST_WIDTH, 2 * known.shape[1])
        while width <= min(a.shape) // 2:
            generator = torch.Generator(device=a.device).manual_seed(width)
            more = (a.shape[1], width - known.shape[1])
            draw = torch.randn(more, generator=generator, device=a.device).to(a)
            right = torch.cat([known, draw], dim=1)
            for _ in range(POWERS):
                right = a.T @ torch.linalg.qr(a @ right).Q
            out = self._followed(a, right, threshold, end, spare=width // 4)
            if out is not None:
                return out
            width *= 2
        return None

    def _followed(
        self, a: Tensor, right: Tensor, threshold: float, end: float, *, spare: int = LEAST_SPARE
    ) -> tuple[Tensor, Tensor] | None:
        """The same by Rayleigh-Ritz; None where fewer than `spare` are below the threshold."""
        q = torch.linalg.qr(a @ right).Q
        rows = q.T @ a
        square, vectors = torch.linalg.eigh(_gram(rows))
        s = square.clamp(min=0).sqrt()
        rank = int((s >= threshold).sum())
        if rank > right.shape[1] - spare:
            return None  # more may be above the threshold than this space has room for
        self.rank = rank
        near = vectors[:, -(rank + SPARE) :].to(a)
        followed = near.T @ rows
        self._right = followed.T
        gain = self._gain(s[len(s) - rank :], threshold, end).to(a)
        return (q @ near[:, near.shape[1] - rank :]) * gain, followed[near.shape[1] - rank :]
