r"""Zernikes, blur and surfaces of a field as one linear problem near some wavefronts.

Surfaces of tens of nanometres change the phase by a tenth of a radian, so that stars are nearly
linear in them: near the best Zernikes χ² is a quadratic form of all coefficients of the field,
``xᵀ N x − 2 bᵀ x``, and stands as a matrix and a vector of a few thousand of them, added up star by
star. Whatever is asked of it afterwards, by any prior, costs no look at a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve

from psfscale.models.wavediff.fit import Own, moved, without_tilts
from psfscale.models.wavediff.normal_equations import Block, assembled, field_blocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor

    from psfscale.models.wavediff.forward import Nuisances, Scene, Wavefronts
    from psfscale.models.wavediff.surface import Wave

__all__ = ["Joint", "Surfaces", "linearised"]

STARS = 16
"""Stars whose matrices are held at once."""
RIDGE = 1e-10
"""Share of its diagonal added to a matrix, so that it has a root in rounded numbers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Surfaces:
    """What a joint problem says of the surfaces once the Zernikes and the blur are solved for.

    Attributes
    ----------
    matrix, vector : of the coefficients themselves, not of their change; wave by function
    still, carry : the rest is ``still − carry · change`` of them
    """

    matrix: Float[np.ndarray, "surface surface"]
    vector: Float[np.ndarray, " surface"]
    still: Float[np.ndarray, " field"]
    carry: Float[np.ndarray, "field surface"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Joint:
    """χ² about some wavefronts as a quadratic form of the changes of the field.

    Attributes
    ----------
    matrix, vector : N and b; the Zernikes, the blur, and from `n_field` on the surfaces
    at : the wavefronts, of the stars that are in it
    blocks, own : how these stars follow
    waves : the surfaces' cosines
    """

    matrix: Float[np.ndarray, "parameter parameter"]
    vector: Float[np.ndarray, " parameter"]
    at: Wavefronts
    blocks: list[Block]
    own: Own | None
    waves: Sequence[Wave]

    @property
    def n_field(self) -> int:
        """Parameters before the surfaces."""
        return sum(len(rows) * f.shape[1] for rows, f in self.blocks[:-1])

    @property
    def start(self) -> Float[np.ndarray, " surface"]:
        """Coefficients of the surfaces about which χ² was taken [µm]."""
        n = len(self.vector) - self.n_field
        if self.at.surface is None:
            return np.zeros(n)
        kx, ky = zip(*self.waves, strict=True)
        return self.at.surface[:, ky, kx].T.double().cpu().numpy().ravel()

    def joined(self, others: Sequence[Joint]) -> Joint:
        """With other stars, about the same wavefronts; where these would move to, it cannot say."""
        matrix = sum((o.matrix for o in others), start=self.matrix)
        vector = sum((o.vector for o in others), start=self.vector)
        return replace(self, matrix=matrix, vector=vector, own=None)

    def without(self, part: Joint) -> Joint:
        """Without some of its stars."""
        return replace(self, matrix=self.matrix - part.matrix, vector=self.vector - part.vector)

    def surfaces(self) -> Surfaces:
        """The problem of the surfaces alone."""
        n = self.n_field
        zernike = self.matrix[:n, :n]
        root = cho_factor(zernike + np.diag(RIDGE * zernike.diagonal()), lower=True)
        side = self.matrix[:n, n:]
        carry = cho_solve(root, side)
        still = cho_solve(root, self.vector[:n])
        matrix = self.matrix[n:, n:] - side.T @ carry
        vector = self.vector[n:] - side.T @ still
        return Surfaces(
            matrix=matrix, vector=vector + matrix @ self.start, still=still, carry=carry
        )

    def change(self, problem: Surfaces, surface: Float[np.ndarray, " surface"]) -> np.ndarray:
        """Change of all parameters that brings the surfaces to these coefficients."""
        step = surface - self.start
        return np.concatenate([problem.still - problem.carry @ step, step])

    def gain(self, change: np.ndarray) -> float:
        """By how much χ² falls."""
        return float(2 * change @ self.vector - change @ self.matrix @ change)

    def apart(self, change: np.ndarray) -> float:
        """Squared distance [noise σ] of the stars before and after."""
        return float(change @ self.matrix @ change)

    def moved(self, change: np.ndarray, n_waves: int) -> Wavefronts:
        """The wavefronts after a change, with `n_waves` cosines along each axis."""
        step = torch.from_numpy(change).to(self.blocks[0][1])
        here = moved(self.at, step, self.blocks, self.own)
        functions = self.blocks[-1][1].shape[1]
        kx, ky = zip(*self.waves, strict=True)
        found = step[self.n_field :] + torch.from_numpy(self.start).to(step)
        surface = here.zernike.new_zeros((functions, n_waves, n_waves))
        surface[:, ky, kx] = found.reshape(-1, functions).T.to(surface.dtype)
        return replace(here, surface=surface)


def linearised(
    scene: Scene,
    at: Wavefronts,
    nuisances: Nuisances,
    *,
    features: Float[Tensor, "star function"],
    waves: Sequence[Wave],
) -> Joint:
    """χ² of the stars near wavefronts; each star's flux, background and centre are solved for.

    Parameters
    ----------
    features : functions of position of the surfaces at the stars
    waves : cosines of the surfaces, (along x, along y)
    """
    n = len(at.zernike)
    beyond = list(range(n, n + len(waves)))

    def blocks(part: slice) -> list[Block]:
        own = field_blocks(n, nuisances, scene.functions[part].double())
        return [*own, (beyond, features[part].double())]

    matrix: Tensor | float = 0.0
    vector: Tensor | float = 0.0
    followers: list[Own] = []
    for k in range(0, len(scene), STARS):
        chosen = torch.arange(k, min(k + STARS, len(scene)), device=features.device)
        normal = scene.select(chosen).normal(at.select(chosen), nuisances, waves)
        reduced, own = without_tilts(normal, nuisances)
        m, v = assembled(reduced, blocks(slice(k, k + STARS)))
        matrix, vector = matrix + m, vector + v
        if own is not None:
            followers.append(own)
    return Joint(
        matrix=torch.as_tensor(matrix).cpu().numpy(),
        vector=torch.as_tensor(vector).cpu().numpy(),
        at=at,
        blocks=blocks(slice(None)),
        own=_together(followers) if followers else None,
        waves=waves,
    )


def _together(parts: Sequence[Own]) -> Own:
    return Own(
        columns=parts[0].columns,
        still=torch.cat([own.still for own in parts]),
        carry=torch.cat([own.carry for own in parts]),
    )
