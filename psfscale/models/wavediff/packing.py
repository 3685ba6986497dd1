"""The parameters of a wavefront field as one vector, in coordinates that suit a descent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.linalg import solve_triangular

from psfscale.models.wavediff.scene import TIP_TILT, Normal, Nuisances, Wavefronts

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from psfscale.models.wavediff.scene import Scene

__all__ = ["Packing", "Steps", "assembled", "free_rows"]

UNIT = 0.01
"""Unit of plain steps [µm]: about the size of one coefficient."""
RIDGE = 1e-6
"""Share of its diagonal added to a matrix, so that it has a root in rounded numbers."""


def free_rows(n: int, nuisances: Nuisances) -> list[int]:
    """Zernikes that the field has: all but the piston, and the tilts where stars have their own."""
    return [j for j in range(1, n) if not (nuisances.centroids and j in TIP_TILT)]


def assembled(normal: Normal, rows: list[int], p: Tensor, *, jitter: bool) -> tuple[Tensor, Tensor]:
    """The stars' problems as one, of the field's coefficients and last the blur."""
    m = normal.matrix[:, rows][:, :, rows]
    n = len(rows) * p.shape[1]
    whole = torch.einsum("sjk,sa,sb->jakb", m, p, p).reshape(n, n)
    down = torch.einsum("sj,sa->ja", normal.vector[:, rows], p).reshape(n)
    if not jitter:
        return whole, down
    side = torch.einsum("sj,sa->ja", normal.matrix[:, rows, -1], p).reshape(n, 1)
    corner = normal.matrix[:, -1, -1].sum().reshape(1, 1)
    whole = torch.cat([torch.cat([whole, side], dim=1), torch.cat([side.T, corner], dim=1)])
    return whole, torch.cat([down, normal.vector[:, -1].sum()[None]])


@dataclass(frozen=True, kw_only=True, eq=False)
class Steps:
    """Linear coordinates u of a parameter vector x.

    Attributes
    ----------
    scale : x = scale · u
    root : but for the first parameters, ``x = root⁻ᵀ u``
    """

    scale: Float[np.ndarray, " parameter"]
    root: Float[np.ndarray, "field field"] | None = None

    def forward(self, u: np.ndarray) -> np.ndarray:
        """Parameters from coordinates."""
        return self._mapped(u, transposed=True)

    def adjoint(self, slope: np.ndarray) -> np.ndarray:
        """Slope by the coordinates from that by the parameters."""
        return self._mapped(slope, transposed=False)

    def inverse(self, x: np.ndarray) -> np.ndarray:
        """Coordinates of parameters."""
        out = np.asarray(x / self.scale)
        if self.root is not None:
            n = len(self.root)
            out[:n] = self.root.T @ x[:n]
        return out

    def _mapped(self, vector: np.ndarray, *, transposed: bool) -> np.ndarray:
        out = vector * self.scale
        if self.root is not None:
            n = len(self.root)
            out[:n] = solve_triangular(self.root, vector[:n], lower=True, trans=int(transposed))
        return np.asarray(out)


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Wavefronts as one vector of numbers near 1, and back."""

    like: Wavefronts
    nuisances: Nuisances
    field: bool = True

    @property
    def rows(self) -> list[int]:
        """Zernikes that are fitted."""
        if not self.field:
            return []
        return free_rows(len(self.like.zernike), self.nuisances)

    def pack(self, zernike: Tensor, tilt: Tensor, surface: Tensor | None) -> np.ndarray:
        """Rows of the Zernikes, the stars' tilts where free, the surfaces where there are any."""
        parts = [zernike[self.rows].flatten()]
        if self.nuisances.centroids:
            parts.append(tilt.flatten())
        vector = torch.cat(parts).double().cpu().numpy()
        if surface is None or not self.field:
            return np.asarray(vector)
        return np.concatenate([vector, surface.flatten().double().cpu().numpy()])

    def plain(self) -> Steps:
        """Steps of `UNIT` for wavefronts, 1 for surfaces, which have their own unit."""
        zernike, tilt = (torch.full_like(v, UNIT) for v in (self.like.zernike, self.like.tilt))
        surface = None if self.like.surface is None else torch.ones_like(self.like.surface)
        return Steps(scale=self.pack(zernike, tilt, surface))

    def even(self, normal: Normal, scene: Scene) -> Steps:
        """Steps in which χ² and prior are about equally steep.

        By the Gauss-Newton matrix of the field; the stars' own tilts each by itself; the surfaces
        as if each mode moved the stars as an average Zernike does.
        """
        n = len(self.like.zernike)
        matrix = normal.matrix[:, :n, :n]
        field = Normal(matrix=matrix, vector=normal.vector[:, :n])
        whole, _ = assembled(field, self.rows, scene.functions.double(), jitter=False)
        whole = 2 * whole + torch.diag(RIDGE * whole.diagonal())
        root = torch.linalg.cholesky(whole).cpu().numpy()
        own = matrix.diagonal(dim1=1, dim2=2)
        tilt = (2 * own[:, list(TIP_TILT)]).rsqrt()
        surface = None
        if scene.surfaces is not None and self.like.surface is not None:
            strength = scene.surfaces.functions.double().T ** 2 @ own[:, 3:].mean(1)
            curvature = scene.surfaces.sigma.double() ** 2 * strength[:, None, None]
            surface = (2 + 2 * curvature).rsqrt()
        ones = torch.ones_like(self.like.zernike, dtype=torch.float64)
        return Steps(scale=self.pack(ones, tilt, surface), root=root)

    def unpack(self, vector: np.ndarray) -> Wavefronts:
        """The wavefronts of a parameter vector; what is not fitted is as in `like`."""
        like, rows = self.like, self.rows
        values = torch.from_numpy(vector).to(like.zernike)
        n = len(rows) * like.zernike.shape[1]
        zernike = like.zernike.clone()
        zernike[rows] = values[:n].reshape(len(rows), zernike.shape[1])
        tilt, surface = like.tilt, like.surface
        if self.nuisances.centroids:
            tilt = values[n : n + tilt.numel()].reshape(tilt.shape)
            n += tilt.numel()
        if surface is not None and self.field:
            surface = values[n:].reshape(surface.shape)
        return replace(like, zernike=zernike, tilt=tilt, surface=surface)
