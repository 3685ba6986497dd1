"""Whether stars show wavefronts beyond the Zernikes: they decide themselves, kept aside in turn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from psfscale.models.wavediff.joint import Joint
from psfscale.models.wavediff.prior import Roughness, learnt, posterior

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from psfscale.models.wavediff.forward import Wavefronts

__all__ = ["Trial", "solved", "split"]

SIGMAS = 4.0
"""Gain of stars kept aside, in its own σ under noise alone, that calls for surfaces."""
STEPS = 12
"""Steps of the search for the prior; it stops by itself before."""


def split(chosen: Tensor, share: float, seed: int) -> list[Tensor]:
    """Indices of stars in parts of about a `share` each; deterministic for a seed."""
    order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))
    n = min(round(1 / share), len(chosen))
    return [chosen[order[k::n].to(chosen.device)].sort().values for k in range(n)]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What stars gain by surfaces that were fitted to others.

    Attributes
    ----------
    roughness : learnt from all of them
    gain : fall of the χ² of stars kept aside, by the surfaces of the others
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
    def of(cls, parts: Sequence[Joint], degrees: Sequence[int]) -> Trial:
        """Each part of the stars is kept aside in turn; all are about the same wavefronts."""
        whole = parts[0].joined(parts[1:])
        waves = whole.waves
        roughness, _ = learnt(
            whole.surfaces(),
            waves=waves,
            degrees=degrees,
            start=Roughness.usual(max(degrees)),
            n_steps=STEPS,
        )
        sigma = roughness.sigma(waves, degrees).ravel()
        gain = apart = 0.0
        for aside in parts:
            others = whole.without(aside)
            problem = others.surfaces()
            plain = others.change(problem, others.start)
            rough = others.change(problem, posterior(problem, sigma).mean)
            gain += aside.gain(rough) - aside.gain(plain)
            apart += aside.apart(rough - plain)
        # If both are as far from the truth, their χ² differ by noise of variance 4·apart.
        return cls(roughness=roughness, gain=gain, noise=2 * math.sqrt(apart))


def solved(
    joint: Joint, *, degrees: Sequence[int], start: Roughness, n_waves: int
) -> tuple[Wavefronts, Roughness]:
    """The wavefronts of highest posterior, and the roughness of highest evidence."""
    problem = joint.surfaces()
    roughness, found = learnt(
        problem, waves=joint.waves, degrees=degrees, start=start, n_steps=STEPS
    )
    return joint.moved(joint.change(problem, found.mean), n_waves), roughness
