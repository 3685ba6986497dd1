r"""What is believed of the galaxies: terms g with their proximal operators.

======  =====================================================  ==============
symbol  name                                                   unit
======  =====================================================  ==============
A       the stack as a matrix, (object, pixel)                 noise σ
λ       low-rank threshold, factor·√max(N + 1, pixels)         noise σ
Φ       wavelet bands, without the coarse one                  as the image
W       thresholds of the bands, k_j·‖φ_j ∗ rot(psf_i)‖        noise σ
======  =====================================================  ==============

Both λ and W are the noise that ``Hᵀ`` leaves in what they threshold.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import torch

from psfscale.kernels.convolution import Convolution
from psfscale.kernels.optimize.lowrank import (
    SingularThreshold,
    ThresholdKind,
    nuclear_norm,
    threshold_gain,
)
from psfscale.kernels.optimize.prox import project_box, project_negative, project_positive
from psfscale.kernels.optimize.splitting import ALL

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from psfscale.kernels.frames.filter_bank import Bands
    from psfscale.kernels.operator import LinearOperator

__all__ = [
    "Free",
    "Identity",
    "LowRank",
    "LowRankCoefficients",
    "Penalty",
    "Positive",
    "Sparse",
    "low_rank_threshold",
    "noise_edge",
    "sparse_thresholds",
]

INNER_ITERATIONS = 30
INNER_TOLERANCE = 1e-3
"""Of the proximal operator of sparsity, which has no closed form [relative change]."""


class Identity:
    """The operator of terms that look at the galaxies themselves."""

    def forward(self, x: Tensor) -> Tensor:
        """X."""
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """Y."""
        return y

    def norm(self) -> float:
        """1."""
        return 1.0


class Penalty(Protocol):
    """A term g(L x)."""

    joint: bool
    """Whether the term couples the galaxies."""

    @property
    def operator(self) -> LinearOperator:
        """L."""
        ...

    def prox_conjugate(self, u: Tensor, step: float | Tensor, objects: slice = ALL) -> Tensor:
        """Proximal operator of step·g*, g without its L; u is of these objects."""
        ...

    def prox(self, x: Tensor, step: float) -> Tensor:
        """Proximal operator of step·(g ∘ L)."""
        ...

    def cost(self, x: Tensor) -> float:
        """g(L x)."""
        ...


def noise_edge(n_objects: int, blur: Convolution) -> float:
    """Largest singular value that noise of unit variance gives the matrix Hᵀy, in expectation.

    ``√N max|K| + √Σ|K|²``, an upper bound that is close for large matrices (Gordon 1985;
    Koltchinskii & Lounici 2017, Bernoulli 23, 110).
    """
    power = blur.psf.square().sum((-2, -1)).mean()
    return math.sqrt(n_objects) + math.sqrt(float(power) * math.prod(blur.shape))


def low_rank_threshold(n_objects: int, n_pixels: int) -> float:
    """λ of white noise of unit variance: √max(N + 1, pixels), Farrens et al. 2017, eq. 14."""
    return math.sqrt(max(n_objects + 1, n_pixels))


class Positive:
    """x ≥ 0."""

    operator = Identity()
    joint = False

    def prox(self, x: Tensor, step: float) -> Tensor:  # noqa: ARG002
        """Nearest x ≥ 0."""
        return project_positive(x)

    def prox_conjugate(
        self,
        u: Tensor,
        step: float | Tensor,  # noqa: ARG002
        objects: slice = ALL,  # noqa: ARG002
    ) -> Tensor:
        """Nearest u ≤ 0."""
        return project_negative(u)

    def cost(self, x: Tensor) -> float:  # noqa: ARG002
        """0: what is not allowed is cut off at the end."""
        return 0.0


class Free:
    """g = 0, as a term that has a dual variable: the published program gives mode grad one."""

    operator = Identity()
    joint = False

    def prox(self, x: Tensor, step: float) -> Tensor:  # noqa: ARG002
        """X."""
        return x

    def prox_conjugate(
        self,
        u: Tensor,
        step: float | Tensor,  # noqa: ARG002
        objects: slice = ALL,  # noqa: ARG002
    ) -> Tensor:
        """0."""
        return torch.zeros_like(u)

    def cost(self, x: Tensor) -> float:  # noqa: ARG002
        """0."""
        return 0.0


class LowRank:
    """λ times the nuclear norm of the stack (soft), or a penalty that ends where values are large.

    The latter (firm) is the minimax concave one of the singular values t: slope λ(1 − t/γλ) up to
    γλ, none beyond. The literal hard threshold is there for parity.

    Parameters
    ----------
    threshold : λ
    kind : see `psfscale.kernels.optimize.lowrank`
    concavity : γ [1/curvature of the data term]
    follow : see `psfscale.kernels.optimize.lowrank.SingularThreshold`
    """

    operator = Identity()
    joint = True

    def __init__(
        self,
        threshold: float,
        *,
        kind: ThresholdKind,
        concavity: float,
        follow: bool = True,
    ) -> None:
        self.threshold, self.concavity = threshold, concavity
        self._threshold = SingularThreshold(kind, follow=follow)

    @property
    def rank(self) -> int:
        """Singular values that the last threshold left."""
        return self._threshold.rank

    def prox(self, x: Float[Tensor, "object y x"], step: float) -> Float[Tensor, "object y x"]:
        """Singular values thresholded at λ·step."""
        end = self.concavity / step
        return self._threshold(x.flatten(1), self.threshold * step, end=end).reshape(x.shape)

    def prox_conjugate(
        self,
        u: Tensor,
        step: float | Tensor,
        objects: slice = ALL,  # noqa: ARG002
    ) -> Tensor:
        """What the threshold takes away: at λ, whatever the step."""
        end = self.concavity * float(step)
        return self._threshold.excess(u.flatten(1), self.threshold, end=end).reshape(u.shape)

    def cost(self, x: Tensor) -> float:
        """λ times the nuclear norm, for all kinds."""
        return self.threshold * nuclear_norm(x.flatten(1))


class LowRankCoefficients:
    """Coefficients of the galaxies on the stack's singular images, thresholded one by one.

    The noise of coefficient (i, j), singular image u_i of galaxy j, is ``‖H_j u_i‖``.
    Source: Ngolè Mboula et al. 2016; departure: each coefficient has the noise of its galaxy's
    own PSF, where the published program takes the i-th galaxy's for the i-th image
    (`paired` does that).

    Parameters
    ----------
    threshold : λ
    kind : ``"hard"``, ``"firm"`` or ``"soft"``
    concavity : γ, see `LowRank`
    blur : H
    paired : take ``‖H_iᵀ u_i‖`` for all galaxies
    """

    operator = Identity()
    joint = True

    def __init__(
        self,
        threshold: float,
        *,
        kind: ThresholdKind,
        concavity: float,
        blur: Convolution,
        paired: bool = False,
    ) -> None:
        self.threshold, self.kind, self.blur, self.paired = threshold, kind, blur, paired
        self.concavity = concavity

    def prox(self, x: Float[Tensor, "object y x"], step: float) -> Float[Tensor, "object y x"]:
        """Coefficients thresholded at λ·step·noise."""
        a = x.flatten(1).double()
        coefficients, s, images = torch.linalg.svd(a, full_matrices=False)
        values = coefficients * s
        cut = self.threshold * step * self._noise(images.reshape(-1, *x.shape[1:])).to(values)
        gain = threshold_gain(values.abs(), cut, kind=self.kind, end=self.concavity / step)
        values = torch.where(values.abs() >= cut, values * gain, 0.0)
        out: Tensor = values @ images
        return out.to(x.dtype).reshape(x.shape)

    def prox_conjugate(
        self,
        u: Tensor,
        step: float | Tensor,
        objects: slice = ALL,  # noqa: ARG002
    ) -> Tensor:
        """What the threshold takes away."""
        step = float(step)
        return u - step * self.prox(u / step, 1 / step)

    def cost(self, x: Tensor) -> float:
        """λ times the nuclear norm, as the published program counts it."""
        return self.threshold * nuclear_norm(x.flatten(1))

    def _noise(self, images: Float[Tensor, "image y x"]) -> Float[Tensor, "object image"]:
        images = images.to(self.blur.psf)
        if self.paired:
            if len(self.blur.psf) > 1:
                images = images[: len(self.blur.psf)]
            norms: Tensor = torch.linalg.vector_norm(self.blur.adjoint(images).flatten(1), dim=1)
            return norms[None]
        return self.blur.response(images)


def sparse_thresholds(
    bands: Bands, blur: Convolution, factors: tuple[float, ...]
) -> Float[Tensor, "psf band 1 1"]:
    """W for unit noise: factors times the noise that each PSF leaves in each band."""
    factor = torch.tensor(factors, dtype=torch.float64).repeat_interleave(bands.per_scale)
    gain = Convolution(psf=blur.psf, shape=blur.shape).power
    noise = bands.noise(gain)
    return (noise * factor.to(noise))[..., None, None]


class Sparse:
    """``‖W ⊙ Φx‖₁``.

    Parameters
    ----------
    bands : Φ
    thresholds : W, (object or 1, band, y or 1, x or 1)
    """

    joint = False

    def __init__(self, bands: Bands, thresholds: Tensor) -> None:
        self.operator = bands
        self.thresholds = self._first = thresholds
        self._dual: Tensor | None = None

    def reweight(self, x: Float[Tensor, "object y x"]) -> None:
        """Lower the thresholds where x has signal: W ← W / (1 + |Φx| / W₀)."""
        first = self._first.clamp(min=torch.finfo(x.dtype).tiny)
        self.thresholds = self.thresholds / (1 + self.operator.forward(x).abs() / first)

    def prox_conjugate(
        self,
        u: Tensor,
        step: float | Tensor,  # noqa: ARG002
        objects: slice = ALL,
    ) -> Tensor:
        """Nearest point with |u| ≤ W."""
        own = len(self.thresholds) > 1
        return project_box(u, self.thresholds[objects] if own else self.thresholds)

    def prox(self, x: Float[Tensor, "object y x"], step: float) -> Float[Tensor, "object y x"]:
        """By projected gradient on the dual, from the last dual on."""
        return self._descend(x, step, positive=False)

    def positive_prox(
        self, x: Float[Tensor, "object y x"], step: float
    ) -> Float[Tensor, "object y x"]:
        """The same with x ≥ 0."""
        return self._descend(x, step, positive=True)

    def cost(self, x: Float[Tensor, "object y x"]) -> float:
        """‖W ⊙ Φx‖₁."""
        size = self.thresholds * self.operator.forward(x).abs()
        return float(size.sum(dtype=torch.float64))

    def _descend(self, x: Tensor, step: float, *, positive: bool) -> Tensor:
        """X − Φᵀu (cut at 0), u the minimum of ½‖x − Φᵀu‖² over |u| ≤ step·W, accelerated."""
        pace = 1 / self.operator.norm() ** 2
        u = self._dual if self._dual is not None else torch.zeros_like(self.operator.forward(x))
        ahead, t = u, 1.0
        limit = step * self.thresholds

        def primal(dual: Tensor) -> Tensor:
            out = x - self.operator.adjoint(dual)
            return project_positive(out) if positive else out

        for _ in range(INNER_ITERATIONS):
            following = project_box(ahead + pace * self.operator.forward(primal(ahead)), limit)
            t, last = (1 + math.sqrt(1 + 4 * t * t)) / 2, t
            move = following - u
            ahead = following + ((last - 1) / t) * move
            u = following
            if float(move.norm()) <= INNER_TOLERANCE * float(u.norm()):
                break
        self._dual = u
        return primal(u)
