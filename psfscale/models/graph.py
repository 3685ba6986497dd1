r"""Spatial-frequency atoms of star positions, extended to any position in closed form.

The atoms are the eigenvectors of lowest eigenvalue of ``P(e, a) = a·diag(Σ_k d_jk⁻ᵉ) − [d_jk⁻ᵉ]``,
d_jk the distance of stars j and k: functions that differ little between near stars, e and a
setting what near means. Between the stars each atom is the thin plate through its values.

======  ==================================================  ==============================
symbol  name                                                unit
======  ==================================================  ==============================
d_jk    distance of two nodes                               of the nearest two
e       exponent of the distances                           1
a       weight of the diagonal                              1
φ       thin-plate kernel r² ln r                           half the box squared
======  ==================================================  ==============================

Paper: Ngolè et al. 2016, arXiv:1608.08104, section 5.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import eigh, solve
from scipy.spatial.distance import cdist

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from psfscale.models.position import PositionPolynomials

    Box = tuple[tuple[float, float], tuple[float, float]]

__all__ = ["FieldFunctions", "FrequencyAtoms", "StarGraph", "spread_nodes", "unit_positions"]

LARGEST_DECAY = 1e-12
"""Least ratio of weights between the nearest two nodes and the two furthest apart."""

NEAREST = 1e-3
"""Distance below which two nodes count as one [half the box]."""


def unit_positions(
    x: Float[np.ndarray, " object"], y: Float[np.ndarray, " object"], *, box: Box
) -> Float[np.ndarray, "object axis"]:
    """Positions in [−1, 1]² for a box [pixel]; those outside move to its nearest edge."""
    axes = [
        np.clip(2 * (np.asarray(p, np.float64) - low) / (high - low) - 1, -1, 1)
        for p, (low, high) in zip((x, y), box, strict=True)
    ]
    return np.stack(axes, axis=1)


def spread_nodes(at: Float[np.ndarray, "star axis"], *, most: int) -> Int[np.ndarray, " node"]:
    """Stars that lie apart: each in turn the one furthest from those before it.

    The first is the nearest to the centre; stars within `NEAREST` of a node are left out.
    """
    chosen = [int((at**2).sum(1).argmin())]
    distance = cdist(at, at[chosen])[:, 0]
    while len(chosen) < most and distance.max() > NEAREST:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, cdist(at, at[chosen[-1:]])[:, 0])
    return np.array(chosen)


def _thin_plate(distance: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    square = distance**2
    return 0.5 * square * np.log(np.where(square > 0, square, 1.0))


def _linear(at: Float[np.ndarray, "object axis"]) -> Float[np.ndarray, "object 3"]:
    return np.concatenate([np.ones((len(at), 1)), at], axis=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class FrequencyAtoms:
    """Thin plates through values at knots.

    Attributes
    ----------
    knots : (knot, axis) in [−1, 1]²
    weights : (knot + 3, atom), of the kernels about the knots, then of 1, x and y
    box : ((x_min, x_max), (y_min, y_max)) [pixel], mapped to [−1, 1]
    """

    knots: Float[np.ndarray, "knot axis"]
    weights: Float[np.ndarray, "kernel atom"]
    box: Box

    @classmethod
    def through(
        cls,
        knots: Float[np.ndarray, "knot axis"],
        values: Float[np.ndarray, "knot atom"],
        *,
        box: Box,
    ) -> FrequencyAtoms:
        """The thin plates through values; through less than three knots or a line, the mean."""
        linear = _linear(knots)
        if np.linalg.matrix_rank(linear) < linear.shape[1]:
            weights = np.zeros((len(knots) + 3, values.shape[1]))
            weights[-3] = values.mean(0)
            return cls(knots=knots, weights=weights, box=box)
        system = np.block(
            [[_thin_plate(cdist(knots, knots)), linear], [linear.T, np.zeros((3, 3))]]
        )
        right = np.concatenate([values, np.zeros((3, values.shape[1]))])
        return cls(knots=knots, weights=solve(system, right, assume_a="sym"), box=box)

    def __call__(
        self, x: Float[np.ndarray, " object"], y: Float[np.ndarray, " object"]
    ) -> Float[np.ndarray, "object atom"]:
        """Values of the atoms at positions [pixel]; beyond the box those of its nearest edge."""
        at = unit_positions(x, y, box=self.box)
        kernels = np.concatenate([_thin_plate(cdist(at, self.knots)), _linear(at)], axis=1)
        values: Float[np.ndarray, "object atom"] = kernels @ self.weights
        return values


@dataclass(frozen=True, kw_only=True, eq=False)
class StarGraph:
    """The stars of a CCD joined by their distances.

    Attributes
    ----------
    nodes : (node, axis) in [−1, 1]², all apart
    """

    nodes: Float[np.ndarray, "node axis"]

    @cached_property
    def _distance(self) -> Float[np.ndarray, "node node"]:
        """In units of the nearest pair's; infinite from a node to itself."""
        distance = cdist(self.nodes, self.nodes)
        np.fill_diagonal(distance, np.inf)
        scaled: Float[np.ndarray, "node node"] = distance / distance.min(initial=np.inf)
        return scaled

    @property
    def largest_exponent(self) -> float:
        """Exponent at which the furthest two nodes weigh nothing beside the nearest two."""
        far = self._distance[np.isfinite(self._distance)].max(initial=1.0)
        return float(-np.log(LARGEST_DECAY) / max(np.log(far), 1e-3))

    def atoms(self, e: float, a: float, *, n: int) -> Float[np.ndarray, "node atom"]:
        """The n eigenvectors of P(e, a) of lowest eigenvalue, smoothest first."""
        weight = self._distance ** -min(e, self.largest_exponent)
        operator = np.diag(a * weight.sum(1)) - weight
        last = min(n, len(self.nodes)) - 1
        vectors: Float[np.ndarray, "node atom"] = eigh(operator, subset_by_index=(0, last))[1]
        return vectors


@dataclass(frozen=True, kw_only=True, eq=False)
class FieldFunctions:
    """Position polynomials of low degree, the constant at least, followed by atoms."""

    lead: PositionPolynomials
    atoms: FrequencyAtoms

    @property
    def box(self) -> Box:
        """((x_min, x_max), (y_min, y_max)) [pixel], the range that the functions vary over."""
        return self.lead.box

    @property
    def n_functions(self) -> int:
        """Number of functions."""
        return len(self.lead.degrees) + int(self.atoms.weights.shape[1])

    def __call__(
        self, x: Float[np.ndarray, " object"], y: Float[np.ndarray, " object"]
    ) -> Float[np.ndarray, "object function"]:
        """Values of the functions at positions [pixel]."""
        return np.concatenate([self.lead(x, y), self.atoms(x, y)], axis=1)
