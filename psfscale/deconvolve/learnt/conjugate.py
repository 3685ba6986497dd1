"""Conjugate gradients for a batch of systems of which each stops by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float
    from torch import Tensor

__all__ = ["conjugate_gradients", "squared"]


def conjugate_gradients(
    normal: Callable[[Tensor], Tensor],
    right: Float[Tensor, "object y x"],
    *,
    start: Float[Tensor, "object y x"],
    enough: float | Tensor,
    at_most: int,
) -> Float[Tensor, "object y x"]:
    """The solutions u of ``normal(u) = right``.

    Parameters
    ----------
    normal : linear, symmetric and positive, each object by itself
    enough : squared residual at which an object is done; a number or (object, 1, 1)
    at_most : iterations
    """
    u = start
    r = p = right - normal(u)
    rr = squared(r)
    for _ in range(at_most):
        active = rr > enough
        if not bool(active.any()):
            break
        q = normal(p)
        step = torch.where(active, rr / (p * q).sum((1, 2), keepdim=True), 0.0)
        u, r = u + step * p, r - step * q
        last, rr = rr, torch.where(active, squared(r), rr)
        p = torch.where(active, r + (rr / last) * p, p)
    return u


def squared(x: Float[Tensor, "object y x"]) -> Float[Tensor, "object 1 1"]:
    """Squared norms."""
    return (x**2).sum((1, 2), keepdim=True)
