"""Whether stars show wavefronts beyond the Zernikes: some of them decide, kept aside."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from psfscale.models.wavediff.joint import Joint
from psfscale.models.wavediff.prior import Roughness, learnt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from psfscale.models.wavediff.scene import Wavefronts

__all__ = ["Trial", "solved", "split"]

SIGMAS = 6.0
"""Gain of held-out stars, in its own σ under noise alone, that calls for surfaces."""
STEPS = 12
"""Steps of the search for the prior; it stops by itself before."""


def split(chosen: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """(fitted, held out) indices of some stars; deterministic for a seed."""
    order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))
    n = max(1, round(share * len(chosen)))
    held, fitted = order[:n].to(chosen.device), order[n:].to(chosen.device)
    return chosen[fitted].sort().values, chosen[held].sort().values


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """Surfaces fitted to some stars, and what others gain by them.

    Attributes
    ----------
    roughness : learnt from the fitted stars
    gain : fall of the others' χ² by the surfaces
    noise : what two models of no merit would differ by, σ
    """

    roughness: Roughness
    gain: float
    noise: float

    @property
    def wins(self) -> bool:
        """Whether the gain is beyond noise."""
        return self.gain > SIGMAS * self.noise

    @classmethod
    def of(cls, fitted: Joint, held: Joint, degrees: Sequence[int]) -> Trial:
        """Both problems are of the same field, about the same wavefronts."""
        problem = fitted.surfaces()
        start = Roughness.usual(max(degrees))
        roughness, found = learnt(
            problem, waves=fitted.waves, degrees=degrees, start=start, n_steps=STEPS
        )
        without = fitted.change(problem, fitted.start)
        with_them = fitted.change(problem, found.mean)
        # If both are as far from the truth, their χ² differ by noise of variance 4·apart.
        return cls(
            roughness=roughness,
            gain=held.gain(with_them) - held.gain(without),
            noise=2 * math.sqrt(held.apart(with_them - without)),
        )


def solved(
    joint: Joint, *, degrees: Sequence[int], start: Roughness, n_waves: int
) -> tuple[Wavefronts, Roughness]:
    """The wavefronts of highest posterior, and the roughness of highest evidence."""
    problem = joint.surfaces()
    roughness, found = learnt(
        problem, waves=joint.waves, degrees=degrees, start=start, n_steps=STEPS
    )
    return joint.moved(joint.change(problem, found.mean), n_waves), roughness
