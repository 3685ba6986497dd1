"""How far galaxies that the profiles do not describe are believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["excess_of", "trust_in"]

TRUSTED = 3.0
"""Excess of chi² from which on a galaxy tells less, by its square [σ]: it has neighbours, or no
profile's shape."""


def excess_of(
    chi2: Float[Tensor, " object"], n_values: Float[Tensor, " object"]
) -> Float[Tensor, " object"]:
    """Of chi² over its mean without a misfit, in its own scatter [σ]."""
    return (chi2 - n_values) / (2 * n_values).sqrt()


def trust_in(excess: Float[Tensor, " object"]) -> Float[Tensor, " object"]:
    """The share with which galaxies of such an excess count."""
    return (TRUSTED / excess.clamp(min=TRUSTED)) ** 2
