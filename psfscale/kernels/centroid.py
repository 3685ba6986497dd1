"""Windowed centroids and sizes of stamps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["matched_width", "windowed_centroid"]


def _axes(stamp: Tensor) -> tuple[Tensor, Tensor]:
    ny, nx = stamp.shape[-2:]
    y, x = torch.arange(ny, device=stamp.device), torch.arange(nx, device=stamp.device)
    return y.to(stamp.dtype)[:, None], x.to(stamp.dtype)[None, :]


def _window(
    stamp: Tensor, cy: Tensor, cx: Tensor, width: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    """Stamps under a Gaussian window about (cy, cx), and the offsets from it."""
    y, x = _axes(stamp)
    y, x = y - cy[..., None, None], x - cx[..., None, None]
    width = torch.as_tensor(width, dtype=stamp.dtype, device=stamp.device)[..., None, None]
    return stamp * torch.exp(-(y**2 + x**2) / (2 * width**2)), y, x


def windowed_centroid(
    stamp: Float[Tensor, "*batch y x"], *, width: Tensor | float, n_iterations: int = 20
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Centroids (y, x) [pixel, 0-based] under a Gaussian window of σ = `width` pixels.

    The window follows the centroid; it starts at the stamp's centre. Where the flux under
    the window is not positive the window stays. Steps are doubled, which is Newton's step
    for a Gaussian of the window's own width, and at most one pixel.
    """
    ny, nx = stamp.shape[-2:]
    cy = torch.full_like(stamp[..., 0, 0], ny // 2)
    cx = torch.full_like(cy, nx // 2)
    for _ in range(n_iterations):
        weighted, y, x = _window(stamp, cy, cx, width)
        flux = weighted.sum((-2, -1))
        scale = torch.where(flux > 0, 2 / flux, torch.zeros_like(flux))
        cy = (cy + ((weighted * y).sum((-2, -1)) * scale).clamp(-1, 1)).clamp(0, ny - 1)
        cx = (cx + ((weighted * x).sum((-2, -1)) * scale).clamp(-1, 1)).clamp(0, nx - 1)
    return cy, cx


def matched_width(
    stamp: Float[Tensor, "*batch y x"], *, start: float, smallest: float, n_iterations: int = 20
) -> Float[Tensor, "*batch"]:
    """σ [pixel] of the round Gaussian window that matches a stamp about its own centroid.

    A Gaussian under a window of its own width has half its variance; the fixed point of
    width² = 2·(windowed variance) is that width.
    """
    width = torch.full_like(stamp[..., 0, 0], start)
    largest = min(stamp.shape[-2:]) / 4
    for _ in range(n_iterations):
        cy, cx = windowed_centroid(stamp, width=width, n_iterations=6)
        weighted, y, x = _window(stamp, cy, cx, width)
        flux = weighted.sum((-2, -1))
        second = (weighted * (y**2 + x**2)).sum((-2, -1)) / 2
        variance = torch.where(flux > 0, second / flux, 0.0).clamp(min=0)
        width = (2 * variance).sqrt().clamp(smallest, largest)
    return width
