"""Functions of position on a CCD, evaluated in closed form anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["PositionPolynomials", "n_polynomials"]


def n_polynomials(degree: int) -> int:
    """Number of polynomials in two variables up to a total degree."""
    return (degree + 1) * (degree + 2) // 2


@dataclass(frozen=True, kw_only=True)
class PositionPolynomials:
    """Products of Legendre polynomials in x and y up to a total degree.

    Orthonormal over the box, lowest degree first, so that those of a lower degree are a
    leading part.

    Attributes
    ----------
    degree : total degree
    box : ((x_min, x_max), (y_min, y_max)) [pixel], mapped to [-1, 1]
    """

    degree: int
    box: tuple[tuple[float, float], tuple[float, float]]

    @classmethod
    def around(
        cls, x: Float[np.ndarray, " star"], y: Float[np.ndarray, " star"], *, degree: int
    ) -> PositionPolynomials:
        """Polynomials over the range of positions; a range of zero becomes one pixel."""
        box = [(float(p.min()), float(p.max())) for p in (x, y)]
        wide = [(a, b) if b > a else (a - 0.5, b + 0.5) for a, b in box]
        return cls(degree=degree, box=(wide[0], wide[1]))

    @property
    def degrees(self) -> list[tuple[int, int]]:
        """(degree in x, degree in y) of each function."""
        return [(t - i, i) for t in range(self.degree + 1) for i in range(t + 1)]

    def __call__(
        self, x: Float[np.ndarray, " object"], y: Float[np.ndarray, " object"]
    ) -> Float[np.ndarray, "object function"]:
        """Values of the functions at positions [pixel].

        Outside the box they keep the value of its nearest edge: a polynomial of high degree
        means nothing beyond the stars that it was fitted to.
        """
        u, v = (
            np.clip(2 * (np.asarray(p, np.float64) - low) / (high - low) - 1, -1, 1)
            for p, (low, high) in zip((x, y), self.box, strict=True)
        )
        px = np.polynomial.legendre.legvander(u, self.degree)
        py = np.polynomial.legendre.legvander(v, self.degree)
        norm = np.sqrt(2 * np.arange(self.degree + 1) + 1)
        px, py = px * norm, py * norm
        return np.stack([px[:, a] * py[:, b] for a, b in self.degrees], axis=1)
