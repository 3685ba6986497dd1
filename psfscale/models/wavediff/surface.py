r"""Wavefronts beyond the Zernikes: smooth surfaces on the pupil that vary over the field.

``W(u, v; x, y) = Σ_f φ_f(x, y) Σ_kl a_fkl B_k(u) B_l(v)``, B the cosines over the square round the
pupil, with a Gaussian prior on a (`psfscale.models.wavediff.prior`) to which all is left that is
blocked.

======  ======================================================================  ====
symbol  name                                                                    unit
======  ======================================================================  ====
φ_f     functions of position: polynomials, harmonics of a graph, or both       1
a       coefficients                                                             µm
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

__all__ = [
    "SurfaceBasis",
    "SurfaceFunctions",
    "Wave",
    "cosines",
    "field_functions",
    "n_cosines",
    "waves_of",
]

Spatial = Literal["poly", "graph", "polygraph"]

Wave = tuple[int, int]
"""A cosine over the pupil: half cycles across the aperture along x and along y."""
REACH = 0.25
"""Distance from the middle [stamp] to which surfaces scatter light that is fitted.

Farther out the stars' light is below their noise: on stars of amplitude S/N 10 the evidence gains
3 by going to 0.31.
"""


def n_cosines(stamp: int, band_limit: float) -> int:
    """Cosines along an axis whose light falls within reach: two for each λ/D from its middle."""
    return math.ceil(2 * REACH * stamp * band_limit) + 2


def waves_of(n: int) -> list[Wave]:
    """The cosines that are not finer than the first `n` along an axis; not the constant."""
    return [(k, j) for j in range(n) for k in range(n) if 0 < k * k + j * j <= (n - 1) ** 2]


@dataclass(frozen=True, kw_only=True)
class SurfaceFunctions:
    """Functions of position that the surfaces follow.

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
    def degrees(self) -> list[int]:
        """Total degree of each function, or number of half waves."""
        total = [a + b for a, b in self.positions.degrees]
        return total + total[1:] if self.spatial == "polygraph" else total

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
    """

    cosines: Float[Tensor, "cosine sample"]
    functions: Float[Tensor, "star function"]

    def maps(self, coefficients: Float[Tensor, "function cosine cosine"]) -> Tensor:
        """Surfaces (function, y, x) [µm]."""
        return self.cosines.T @ coefficients @ self.cosines

    def opd(self, maps: Float[Tensor, "function y x"], part: slice) -> Float[Tensor, "star y x"]:
        """Wavefronts of the stars in `part`."""
        return torch.einsum("sf,fyx->syx", self.functions[part], maps)

    def select(self, chosen: Tensor) -> SurfaceBasis:
        """The same for some of the stars."""
        return SurfaceBasis(cosines=self.cosines, functions=self.functions[chosen])


def cosines(axis: Float[np.ndarray, " sample"], n: int) -> Float[Tensor, "cosine sample"]:
    """The first `n` cosines at places in radii of the aperture."""
    k = np.arange(n)[:, None]
    values = np.where(k > 0, math.sqrt(2), 1) * np.cos(math.pi * k * (axis + 1) / 2)
    return torch.from_numpy(values)


def field_functions(
    settings: WaveDiffSettings, box: tuple[tuple[float, float], tuple[float, float]]
) -> SurfaceFunctions:
    """The functions of position of a model's surfaces."""
    positions = PositionPolynomials(degree=settings.surface_degree, box=box)
    return SurfaceFunctions(positions=positions, spatial=settings.spatial)
