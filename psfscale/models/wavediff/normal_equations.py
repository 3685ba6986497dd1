"""The parameters of a wavefront field as one vector; the stars' problems as one of the field."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from psfscale.models.wavediff.forward import Normal, Nuisances, Wavefronts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["Block", "WavefrontVector", "assembled", "field_blocks", "free_rows", "own_gain"]


def free_rows(n: int, nuisances: Nuisances) -> list[int]:
    """Zernikes that the field has: all but the piston, and what stars have of their own."""
    return [j for j in range(1, n) if j not in nuisances.own]


Block = tuple[list[int], "Tensor"]
"""Parameters of the stars, and the functions (star, function) that they follow over the field."""


def assembled(normal: Normal, blocks: Sequence[Block]) -> tuple[Tensor, Tensor]:
    """The stars' problems as one: block by block, parameter by function."""
    whole = [
        torch.cat(
            [
                torch.einsum(
                    "sab,sjk->jakb", f[:, :, None] * g[:, None], normal.matrix[:, j][:, :, k]
                ).reshape(len(j) * f.shape[1], -1)
                for k, g in blocks
            ],
            dim=1,
        )
        for j, f in blocks
    ]
    down = [torch.einsum("sj,sa->ja", normal.vector[:, j], f).flatten() for j, f in blocks]
    return torch.cat(whole), torch.cat(down)


def field_blocks(n: int, nuisances: Nuisances, functions: Tensor) -> list[Block]:
    """The Zernikes of the field, and last the blur where it is fitted, as `Scene.normal` has them.

    Parameters
    ----------
    n : Zernikes
    functions : (star, function) in double precision
    """
    blocks: list[Block] = [(free_rows(n, nuisances), functions)]
    if nuisances.jitter:
        rows = [-3, -2, -1] if nuisances.stretch else [-1]
        blocks.append((rows, torch.ones_like(functions[:, :1])))
    return blocks


@dataclass(frozen=True, kw_only=True)
class WavefrontVector:
    """Wavefronts as one vector, and back."""

    like: Wavefronts
    nuisances: Nuisances

    @property
    def rows(self) -> list[int]:
        """Zernikes that are fitted."""
        return free_rows(len(self.like.zernike), self.nuisances)

    @property
    def columns(self) -> list[int]:
        """Columns of the stars' own tilts that are fitted."""
        return [j - 1 for j in self.nuisances.own]

    def pack(self, zernike: Tensor, tilt: Tensor) -> np.ndarray:
        """Rows of the Zernikes, and what is free of the stars' own."""
        parts = [zernike[self.rows].flatten(), tilt[:, self.columns].flatten()]
        return np.asarray(torch.cat(parts).double().cpu().numpy())

    def unpack(self, vector: np.ndarray) -> Wavefronts:
        """The wavefronts of a parameter vector; what is not fitted is as in `like`."""
        like, rows = self.like, self.rows
        values = torch.from_numpy(vector).to(like.zernike)
        n = len(rows) * like.zernike.shape[1]
        zernike = like.zernike.clone()
        zernike[rows] = values[:n].reshape(len(rows), zernike.shape[1])
        tilt = like.tilt.clone()
        tilt[:, self.columns] = values[n:].reshape(len(tilt), -1)
        return replace(like, zernike=zernike, tilt=tilt)


def own_gain(normal: Normal, modes: list[int], own: list[int]) -> float:
    """What these modes of each star's own, beside others, gain in χ² over noise [σ of that]."""

    def gain(rows: list[int]) -> float:
        block, vector = normal.matrix[:, rows][:, :, rows], normal.vector[:, rows]
        return float((vector * torch.linalg.solve(block, vector[..., None])[..., 0]).sum())

    n = len(normal.vector) * len(modes)
    return (gain([*own, *modes]) - gain(own) - n) / math.sqrt(2 * n)
