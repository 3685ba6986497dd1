r"""Which frequency atoms the stars of a CCD ask for.

Each of the stars' leading patterns (principal components of their registered residuals about
the mean PSF, in units of noise) votes for the operator P(e, a) whose atoms explain its
amplitudes best, by marginal likelihood; one operator serves all but the patterns that another
suits decisively better. The field's functions are the smoothest atoms of the operators chosen,
as far as they are independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from psfscale.models.graph import FrequencyAtoms, StarGraph, spread_nodes, unit_positions
from psfscale.models.variation import Variation

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from psfscale.models.graph import Box

__all__ = ["choose_atoms", "function_degrees"]

EXPONENTS = np.geomspace(0.1, 6.0, 9)
"""Trial exponents e of the distances; a graph caps them where far weights vanish."""

DIAGONALS = (0.01, 0.1, 0.5, 1.0, 1.99)
"""Trial weights a of the diagonal."""

DECISIVE = 5.0
"""Gain of log likelihood from which a pattern has an operator of its own."""

DEPENDENT = 0.05
"""Share of a function's norm that must be new for it to count beside those before it."""


def function_degrees(n: int) -> Int[np.ndarray, " function"]:
    """Total degree of each of n functions: 1 of degree 0, 2 of degree 1, then 3, 4, …."""
    return ((np.sqrt(8 * np.arange(n) + 1) - 1) / 2).astype(int)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Candidates:
    """Atoms of trial operators at nodes and stars, beside functions that are kept anyway."""

    atoms: list[Float[np.ndarray, "node atom"]]
    extension: Float[np.ndarray, "star node"]
    lead: Float[np.ndarray, "star lead"]
    root: Float[np.ndarray, " star"]

    def combined(self, chosen: list[int], n: int) -> tuple[np.ndarray, np.ndarray]:
        """The first n independent functions of the lead and of chosen operators, taken in turn.

        Returns their values at the stars, of unit mean square over the nodes, and those of the
        atoms among them at the nodes.
        """
        turns = np.stack([self.atoms[i] for i in chosen], axis=2)
        atoms = turns.reshape(len(turns), -1) * np.sqrt(len(turns))
        columns = np.concatenate([self.lead, self.extension @ atoms], axis=1)
        weighted = self.root[:, None] * columns
        size = np.linalg.norm(weighted, axis=0)
        r = np.linalg.qr(weighted / np.where(size > 0, size, 1.0), mode="r")
        lead, diagonal = self.lead.shape[1], np.abs(np.diag(r))
        diagonal[:lead] = np.inf
        new = np.flatnonzero(diagonal > DEPENDENT)[:n]
        return columns[:, new], atoms[:, new[new >= lead] - lead]


def _log_likelihood(
    functions: Float[np.ndarray, "star function"],
    amplitude: Float[np.ndarray, "star pattern"],
    root: Float[np.ndarray, " star"],
) -> Float[np.ndarray, " pattern"]:
    """Of each pattern's amplitudes [noise σ], were they smooth in these functions."""
    n_stars, n = functions.shape
    q, r = np.linalg.qr(root[:, None] * functions)
    seen = q.T @ amplitude
    rest = (amplitude**2).sum(0) - (seen**2).sum(0)
    noise = np.maximum(rest / max(n_stars - n, 1), 1.0)
    found = Variation.of(
        torch.from_numpy(seen),
        mixing=torch.from_numpy(np.linalg.inv(r)),
        degree=torch.from_numpy(function_degrees(n)),
        noise=torch.from_numpy(noise),
    )
    evidence: Float[np.ndarray, " pattern"] = found.evidence.numpy() - 0.5 * (
        n_stars * np.log(noise) + rest / noise
    )
    return evidence


def _votes(evidence: Float[np.ndarray, "operator pattern"]) -> list[int]:
    """The operator that suits all patterns best, then those that suit one decisively better."""
    common = int(evidence.sum(1).argmax())
    own = evidence.argmax(0)
    decisive = evidence.max(0) - evidence[common] > DECISIVE
    return list(dict.fromkeys([common, *own[decisive].tolist()]))


def choose_atoms(
    x: Float[np.ndarray, " star"],
    y: Float[np.ndarray, " star"],
    *,
    importance: Float[np.ndarray, " star"],
    amplitude: Float[np.ndarray, "star pattern"],
    lead: Float[np.ndarray, "star lead"],
    n_functions: int,
    most_nodes: int,
    box: Box,
) -> FrequencyAtoms:
    """The atoms that follow a CCD's leading functions of position.

    Parameters
    ----------
    x, y : of the stars [pixel]
    importance : squared signal-to-noise of each star
    amplitude : of each star in its leading patterns, strongest first [noise σ]
    lead : functions that come first, the constant before all
    n_functions : of position in all, at most; fewer where stars are few
    most_nodes : stars that the graph joins at most
    box : range of positions [pixel]
    """
    at = unit_positions(x, y, box=box)
    nodes = at[spread_nodes(at, most=most_nodes)]
    graph = StarGraph(nodes=nodes)
    exponents = np.unique(np.minimum(EXPONENTS, graph.largest_exponent))
    trials = [(e, a) for e in exponents for a in DIAGONALS]
    plates = FrequencyAtoms.through(nodes, np.eye(len(nodes)), box=box)
    candidates = _Candidates(
        atoms=[graph.atoms(e, a, n=2 * n_functions) for e, a in trials],
        extension=plates(x, y),
        lead=lead,
        root=np.sqrt(importance),
    )
    evidence = [
        _log_likelihood(candidates.combined([i], n_functions)[0], amplitude, candidates.root)
        for i in range(len(trials))
    ]
    _, values = candidates.combined(_votes(np.array(evidence)), n_functions)
    return FrequencyAtoms.through(nodes, values, box=box)
