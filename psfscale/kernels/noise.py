"""Noise of a stamp, from the pixels round its object."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

__all__ = ["stamp_noise"]

SPLINE = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
"""The smoothing of the starlet."""

REACH = 4
"""Half width of the filter [pixel]."""

FEWEST_PIXELS = 32

BLOCK = 128
"""Stamps measured together."""

CLIP = 3.0
N_CLIPS = 4


def stamp_noise(
    image: Float[Tensor, "*batch y x"], *, good: Bool[Tensor, "*batch y x"]
) -> Float[Tensor, " *batch"]:
    """Standard deviation of the white noise of each stamp, not raised by its object's light.

    The clipped spread of a band that is blind to smooth light to fourth order, over pixels at
    least a quarter of the stamp away from its centre, `REACH` from its edge and untouched by
    masked ones (over all good pixels where too few are left). Clipping starts from the median
    absolute deviation and drops what detail is left.
    """
    ny, nx = image.shape[-2:]
    stamps, use = image.reshape(-1, ny, nx), good.reshape(-1, ny, nx)
    blocks = [slice(i, i + BLOCK) for i in range(0, len(stamps), BLOCK)]
    spreads = [_detail_spread(stamps[b], use[b]) for b in blocks]
    return torch.cat(spreads).reshape(image.shape[:-2])


def _detail_spread(
    image: Float[Tensor, "stamp y x"], good: Bool[Tensor, "stamp y x"]
) -> Float[Tensor, " stamp"]:
    smooth_y, smooth_x = (_banded(n, SPLINE).to(image) for n in image.shape[-2:])
    band = image
    for _ in range(2):
        band = band - smooth_y @ (band @ smooth_x)
    near_y, near_x = (_banded(n, (1.0,) * (2 * REACH + 1)).to(image) for n in image.shape[-2:])
    near_bad = near_y @ ((~good).to(image) @ near_x) > 0
    clean = _outer(*image.shape[-2:], device=image.device) & ~near_bad
    few = clean.flatten(1).sum(1) < FEWEST_PIXELS
    clean = torch.where(few[:, None, None], good, clean)
    return _clipped_spread(torch.where(clean, band / _detail_norm(), torch.nan).flatten(1))


@lru_cache(maxsize=16)
def _banded(n: int, taps: tuple[float, ...]) -> Float[Tensor, "sample sample"]:
    """Symmetric matrix that convolves a row of n samples with taps; beyond it, all is 0."""
    matrix = torch.zeros(n, n, dtype=torch.float64)
    for k, tap in enumerate(taps):
        offset = k - len(taps) // 2
        if abs(offset) < n:
            matrix.diagonal(offset).fill_(tap)
    return matrix


@lru_cache(maxsize=1)
def _detail_norm() -> float:
    """Norm of (δ − B3) twice: what it makes of unit noise."""
    side = 4 * REACH + 1
    smooth = _banded(side, SPLINE)
    point = torch.zeros(side, side, dtype=torch.float64)
    point[side // 2, side // 2] = 1
    for _ in range(2):
        point = point - smooth @ point @ smooth
    return float(point.norm())


def _outer(ny: int, nx: int, *, device: torch.device) -> Bool[Tensor, "y x"]:
    y = torch.arange(ny, device=device) - ny // 2
    x = torch.arange(nx, device=device) - nx // 2
    outer = y[:, None] ** 2 + x[None, :] ** 2 > (min(ny, nx) / 4) ** 2
    outer[:REACH] = outer[-REACH:] = outer[:, :REACH] = outer[:, -REACH:] = False
    return outer


def _clipped_spread(values: Float[Tensor, "*batch pixel"]) -> Float[Tensor, " *batch"]:
    """Root mean square within ±CLIP of itself, corrected for what clipping takes of a Gaussian."""
    spread = 1.4826 * values.abs().nanmedian(-1).values
    inside = math.erf(CLIP / math.sqrt(2))
    density = math.exp(-(CLIP**2) / 2) / math.sqrt(2 * math.pi)
    kept = math.sqrt(1 - 2 * CLIP * density / inside)
    for _ in range(N_CLIPS):
        near = torch.where(values.abs() <= CLIP * spread[..., None], values, torch.nan)
        spread = torch.sqrt((near**2).nanmean(-1)) / kept
    return spread
