r"""Wavefronts beyond the Zernikes: smooth surfaces on the pupil that vary over the field.

``W(u, v; x, y) = Σ_f φ_f(x, y) Σ_kl a_fkl B_k(u) B_l(v)``, B the cosines over the square round the
pupil, with a Gaussian prior on a: variance falling as a power of spatial frequency, as that of
polished mirrors does, and with the degree in position. What is blocked is left to the prior.

======  ======================================================================  ====
symbol  name                                                                    unit
======  ======================================================================  ====
φ_f     functions of position: polynomials, harmonics of a graph, or both       1
a       coefficients; in units of their prior σ while they are fitted           µm
B_k     ``√2 cos(π k (u + 1) / 2)``, k / 2 cycles across the aperture           1
======  ======================================================================  ====
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from psfscale.models.position import PositionPolynomials

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from psfscale.models.wavediff.settings import WaveDiffSettings

__all__ = ["FieldFunctions", "SurfaceBasis", "cosines", "field_functions", "n_cosines"]

Spatial = Literal["poly", "graph", "polygraph"]

SLOPE = 2.5
"""Fall of the prior's power spectrum with spatial frequency, as of polished surfaces."""
KNEE = 2.0
"""Frequency [cycles per aperture] below which the prior is flat."""


def n_cosines(stamp: int, band_limit: float) -> int:
    """Cosines along an axis whose light falls into the stamp: two for each λ/D from its middle."""
    return math.ceil(stamp * band_limit) + 2


@dataclass(frozen=True, kw_only=True)
class FieldFunctions:
    """Functions of position that the surfaces follow, and how strongly, a priori.

    ``poly`` are products of Legendre polynomials. ``graph`` are the harmonics of the Laplacian of
    a regular graph over the field, in the limit of many nodes: products of cosines, which can be
    evaluated anywhere. ``polygraph`` has both, the constant once.

    Attributes
    ----------
    positions : the polynomials, and the box
    spatial : which functions
    """

    positions: PositionPolynomials
    spatial: Spatial

    @property
    def strength(self) -> Float[np.ndarray, " function"]:
        """Prior σ of each function's surface against that of the constant."""
        total = np.array([1.0 / (1 + a + b) for a, b in self.positions.degrees])
        return np.concatenate([total, total[1:]]) if self.spatial == "polygraph" else total

    def __call__(
        self, x: Float[np.ndarray, " object"], y: Float[np.ndarray, " object"]
    ) -> Float[np.ndarray, "object function"]:
        """Values at positions [pixel]."""
        if self.spatial == "poly":
            return self.positions(x, y)
        u, v = (
            np.clip((np.asarray(p, np.float64) - low) / (high - low), 0, 1)
            for p, (low, high) in zip((x, y), self.positions.box, strict=True)
        )
        waves = [
            math.sqrt((2 if a else 1) * (2 if b else 1))
            * np.cos(math.pi * a * u)
            * np.cos(math.pi * b * v)
            for a, b in self.positions.degrees
        ]
        harmonics = np.stack(waves, axis=1)
        if self.spatial == "graph":
            return harmonics
        return np.concatenate([self.positions(x, y), harmonics[:, 1:]], axis=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class SurfaceBasis:
    """The surfaces on the samples of a pupil, for given stars.

    Attributes
    ----------
    cosines : (cosine, sample) B on the pupil's samples
    functions : (star, function) φ at the stars
    sigma : (function, cosine, cosine) prior σ of a [µm]
    """

    cosines: Float[Tensor, "cosine sample"]
    functions: Float[Tensor, "star function"]
    sigma: Float[Tensor, "function cosine cosine"]

    @classmethod
    def of(
        cls,
        axis: Float[np.ndarray, " sample"],
        functions: Float[Tensor, "star function"],
        *,
        n: int,
        strength: Float[np.ndarray, " function"],
        rms: float,
    ) -> SurfaceBasis:
        """`n` cosines along each axis; `rms` [µm] is the prior's of the constant function."""
        k = np.arange(n)
        frequency = np.hypot(k[:, None], k[None, :]) / 2
        power = (1 + (frequency / KNEE) ** 2) ** (-SLOPE / 2)
        power[0, 0] = 0
        sigma = rms * strength[:, None, None] * np.sqrt(power / power.sum())
        return cls(
            cosines=cosines(axis, n).to(functions),
            functions=functions,
            sigma=torch.from_numpy(sigma).to(functions),
        )

    def maps(self, whitened: Float[Tensor, "function cosine cosine"]) -> Tensor:
        """Surfaces (function, y, x) [µm] of coefficients in units of their σ."""
        return self.cosines.T @ (whitened * self.sigma) @ self.cosines

    def opd(self, maps: Float[Tensor, "function y x"], part: slice) -> Float[Tensor, "star y x"]:
        """Wavefronts of the stars in `part`."""
        return torch.einsum("sf,fyx->syx", self.functions[part], maps)

    def adjoint(self, slope: Float[Tensor, "function y x"]) -> Tensor:
        """Slope with respect to the whitened coefficients."""
        return (self.cosines @ slope @ self.cosines.T) * self.sigma

    def select(self, chosen: Tensor) -> SurfaceBasis:
        """The same for some of the stars."""
        return SurfaceBasis(
            cosines=self.cosines, functions=self.functions[chosen], sigma=self.sigma
        )


def cosines(axis: Float[np.ndarray, " sample"], n: int) -> Float[Tensor, "cosine sample"]:
    """The first `n` cosines at places in radii of the aperture."""
    k = np.arange(n)[:, None]
    values = np.where(k > 0, math.sqrt(2), 1) * np.cos(math.pi * k * (axis + 1) / 2)
    return torch.from_numpy(values)


def field_functions(
    settings: WaveDiffSettings, box: tuple[tuple[float, float], tuple[float, float]]
) -> FieldFunctions:
    """The functions of position of a model's surfaces."""
    positions = PositionPolynomials(degree=settings.surface_degree, box=box)
    return FieldFunctions(positions=positions, spatial=settings.spatial)
