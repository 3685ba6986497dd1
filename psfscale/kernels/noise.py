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

REACH = 4
"""Half width of the filter [pixel]."""

FEWEST_PIXELS = 32
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
    kernel = _detail_filter().to(image)[None, None]
    flat = image.reshape(-1, 1, ny, nx)
    band = torch.nn.functional.conv2d(flat, kernel, padding=REACH)
    bad = (~good).to(image.dtype).reshape(-1, 1, ny, nx)
    near_bad = torch.nn.functional.max_pool2d(bad, 2 * REACH + 1, stride=1, padding=REACH) > 0
    clean = _outer(ny, nx, device=image.device) & ~near_bad.reshape(image.shape)
    few = clean.flatten(-2).sum(-1) < FEWEST_PIXELS
    clean = torch.where(few[..., None, None], good, clean)
    return _clipped_spread(torch.where(clean, band.reshape(image.shape), torch.nan).flatten(-2))


@lru_cache(maxsize=1)
def _detail_filter() -> Float[Tensor, "y x"]:
    """(δ − B3) twice, B3 the smoothing of the starlet, scaled to leave the noise as it is."""
    spline = torch.tensor([1.0, 4, 6, 4, 1], dtype=torch.float64) / 16
    once = -spline[:, None] * spline
    once[2, 2] += 1
    twice: Tensor = torch.nn.functional.conv2d(
        once[None, None], once.flip((0, 1))[None, None], padding=REACH
    )[0, 0]
    return twice.div(twice.norm())


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
