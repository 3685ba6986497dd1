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
or, where A is the next of a sequence and large, from a Rayleigh-Ritz step in the space of the
last ones and their images under A Aᵀ (block Krylov), a few of those below the threshold among
them so that a newcomer is seen.

Three rules f: ``"soft"``, s − T; ``"hard"``, s as it is; ``"firm"``, which rises from 0 at T to s
at `FIRM_END`·T and stays there. A hard threshold inside a splitting has no rest: a value that the
data alone hold between nothing and T comes and goes for ever. The firm one settles at what the
hard one circles round, and leaves large values alone as it does. It is the proximal operator of
the minimax concave penalty (Gao & Bruce 1997, Stat. Sin. 7, 855; Zhang 2010, Ann. Stat. 38, 894).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["SingularThreshold", "ThresholdKind", "nuclear_norm", "singular_values"]

EXACT_SIDE = 160
"""Matrices whose smaller side is up to this are always decomposed."""

GRAM_BLOCK = 256
"""Columns that are taken to float64 together."""

SPARE = 12
"""Singular vectors below the threshold that are followed."""

FIRST_WIDTH = 64
"""Dimensions of the random space that singular vectors are first sought in."""

POWERS = 2
"""Multiplications with A Aᵀ that turn a random space towards the largest singular values."""

FIRM_END = 1.5
"""Where a firm threshold leaves values as they are [T]."""

ThresholdKind = Literal["hard", "soft", "firm"]


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
        self._left: Tensor | None = None

    def __call__(
        self, a: Float[Tensor, "object pixel"], threshold: float
    ) -> Float[Tensor, "object pixel"]:
        """A with its singular values thresholded; `rank` then says how many are left."""
        if not self.follow or min(a.shape) <= EXACT_SIDE:
            return self._decomposed(a, threshold, remember=False)
        out = None if self._left is None else self._followed(a, self._left, threshold)
        if out is None:
            out = self._sought(a, threshold)
        return self._decomposed(a, threshold, remember=True) if out is None else out

    def _gain(self, s: Float[Tensor, " value"], threshold: float) -> Float[Tensor, " value"]:
        """f(s)/s of the kept values."""
        if self.kind == "hard":
            return torch.ones_like(s)
        shrunk = 1 - threshold / s
        if self.kind == "soft":
            return shrunk
        return (shrunk * FIRM_END / (FIRM_END - 1)).clamp(max=1)

    def _decomposed(self, a: Tensor, threshold: float, *, remember: bool) -> Tensor:
        square, vectors = torch.linalg.eigh(_gram(a))
        s = square.clamp(min=0).sqrt()
        self.rank = int((s >= threshold).sum())
        top = vectors[:, len(s) - self.rank :]
        gain = self._gain(s[len(s) - self.rank :], threshold)
        projector = (top * gain).to(a), top.T.to(a)
        by_object = a.shape[0] <= a.shape[1]
        if remember:
            near = vectors[:, -(self.rank + SPARE) :]
            left = near if by_object else torch.linalg.qr(a.double() @ near).Q
            self._left = left.to(a)
        out: Tensor = (
            projector[0] @ (projector[1] @ a) if by_object else (a @ projector[0]) @ projector[1]
        )
        return out

    def _sought(self, a: Tensor, threshold: float) -> Tensor | None:
        """The same from a random space; None where too many values are kept for that.

        The space is drawn on the side of the pixels: the order of the objects is immaterial.
        """
        width = FIRST_WIDTH
        while width <= min(a.shape) // 4:
            generator = torch.Generator(device=a.device).manual_seed(width)
            draw = torch.randn(a.shape[1], width, generator=generator, device=a.device).to(a)
            left = torch.linalg.qr(a @ draw).Q
            for _ in range(POWERS):
                left = torch.linalg.qr(a @ (a.T @ left)).Q
            out = self._followed(a, left, threshold)
            if out is not None:
                return out
            width *= 2
        return None

    def _followed(self, a: Tensor, left: Tensor, threshold: float) -> Tensor | None:
        """The same by Rayleigh-Ritz; None where the followed vectors no longer suffice."""
        q = torch.linalg.qr(torch.cat([left, a @ (a.T @ left)], dim=1)).Q
        rows = q.T @ a
        square, vectors = torch.linalg.eigh(_gram(rows))
        s = square.clamp(min=0).sqrt()
        rank = int((s >= threshold).sum())
        if rank + SPARE > left.shape[1] + SPARE // 2:
            return None
        self.rank = rank
        vectors = vectors.to(a)
        top = vectors[:, len(s) - rank :]
        self._left = q @ vectors[:, -(rank + SPARE) :]
        gain = self._gain(s[len(s) - rank :], threshold).to(a)
        out: Tensor = ((q @ top) * gain) @ (top.T @ rows)
        return out
