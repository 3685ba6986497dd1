"""Proximal operators in closed form, and the Moreau identity that gives their conjugates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = [
    "conjugate_prox",
    "project_box",
    "project_negative",
    "project_positive",
    "project_simplex",
    "shrink",
    "shrink_conjugate",
    "soft_threshold",
]


def soft_threshold(x: Tensor, threshold: Tensor | float) -> Tensor:
    """Proximal operator of Σ threshold·|x|."""
    return torch.sign(x) * torch.clamp(x.abs() - threshold, min=0)


def project_positive(x: Tensor) -> Tensor:
    """Proximal operator of the indicator of x ≥ 0."""
    return torch.clamp(x, min=0)


def project_simplex(x: Tensor) -> Tensor:
    """Nearest images, over the last two axes, that are not negative and sum to 1.

    Source: Held, Wolfe & Crowder 1974, Math. Program. 6, 62.
    """
    flat = x.flatten(-2)
    largest_first = flat.sort(-1, descending=True).values
    excess = largest_first.cumsum(-1) - 1
    count = torch.arange(1, flat.shape[-1] + 1, dtype=x.dtype, device=x.device)
    kept = (largest_first * count > excess).sum(-1, keepdim=True)
    shift = excess.gather(-1, kept - 1) / kept
    return torch.clamp(flat - shift, min=0).reshape(x.shape)


def project_negative(x: Tensor) -> Tensor:
    """Proximal operator of the indicator of x ≤ 0; conjugate of `project_positive`."""
    return torch.clamp(x, max=0)


def shrink(x: Tensor, step: Tensor | float, *, variance: Tensor | float) -> Tensor:
    """Proximal operator of step·½ Σ x²/variance."""
    return x * (variance / (variance + step))


def shrink_conjugate(x: Tensor, step: Tensor | float, *, variance: Tensor | float) -> Tensor:
    """Proximal operator of step·½ Σ variance·x², the conjugate of `shrink`'s."""
    return x / (1 + step * variance)


def project_box(x: Tensor, half_width: Tensor | float) -> Tensor:
    """Proximal operator of the indicator of |x| ≤ half_width; conjugate of the soft threshold."""
    half = torch.as_tensor(half_width, dtype=x.dtype, device=x.device)
    return torch.minimum(torch.maximum(x, -half), half)


def conjugate_prox(prox: Callable[[Tensor, float], Tensor], x: Tensor, step: float) -> Tensor:
    """Proximal operator of step·g*, from ``prox(x, t)`` of t·g (Moreau identity)."""
    return x - step * prox(x / step, 1 / step)
