"""Whether stars show wavefronts beyond the Zernikes, and how strong: stars kept aside decide."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from psfscale.models.wavediff.fit import descend

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from psfscale.models.wavediff.scene import Nuisances, Scene, Wavefronts

__all__ = ["Held", "split"]

TILT_STEPS = 8
"""Steps that fit the held-out stars' own centres."""
SIGMAS = 6.0
"""Gain of held-out stars, in its own σ under noise alone, that calls for surfaces."""


def split(used: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """(fitted, held out) indices of the stars in use; deterministic for a seed."""
    chosen = torch.nonzero(used)[:, 0].cpu()
    order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))
    n = max(1, round(share * len(chosen)))
    held, fitted = chosen[order[:n]].sort().values, chosen[order[n:]].sort().values
    return fitted.to(used.device), held.to(used.device)


class Held:
    """Stars kept aside, and how well wavefronts predict them.

    Parameters
    ----------
    scene : of these stars
    nuisances : each star's own flux, background and centre are fitted to it
    """

    def __init__(self, scene: Scene, nuisances: Nuisances) -> None:
        self._scene = scene
        self._nuisances = nuisances

    def model(self, wavefronts: Wavefronts) -> Float[Tensor, "star y x"]:
        """The stars' images, `wavefronts` being theirs."""
        if self._nuisances.centroids:
            own = replace(self._nuisances, jitter=False)
            wavefronts, _ = descend(
                self._scene, wavefronts, nuisances=own, n_steps=TILT_STEPS, field=False
            )
        stamp = self._scene.stamps(wavefronts)
        light = self._scene.pixels.light(
            stamp, fluxes=self._nuisances.fluxes, background=self._nuisances.background
        )
        return light.of(stamp)

    def chi2(self, model: Float[Tensor, "star y x"]) -> float:
        """χ² of the stars."""
        return float(self._scene.pixels.chi2(model).sum(dtype=torch.float64))

    def gains(self, new: Float[Tensor, "star y x"], old: Float[Tensor, "star y x"]) -> bool:
        """Whether the new model is better by more than two models of no merit would differ."""
        apart = float((self._scene.pixels.weight * (new - old) ** 2).sum(dtype=torch.float64))
        # If both are as far from the truth, their χ² differ by noise of variance 4·apart.
        return self.chi2(old) - self.chi2(new) > SIGMAS * 2 * math.sqrt(apart)
