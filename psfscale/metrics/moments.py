"""Adaptive moments of images, in a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Adaptive moments of a batch of images; NaN wherever `ok` is False.

    Attributes
    ----------
    e1, e2 : distortions
    R2 : Mxx + Myy [arcsec²]
    x, y : centroid [pixel of the image], from the centre index ``n // 2``
    ok : False where the moments could not be measured
    """

    e1: Float[np.ndarray, " object"]
    e2: Float[np.ndarray, " object"]
    R2: Float[np.ndarray, " object"]
    x: Float[np.ndarray, " object"]
    y: Float[np.ndarray, " object"]
    ok: Bool[np.ndarray, " object"]


def adaptive_moments(
    images: Float[np.ndarray, "object y x"],
    weights: Float[np.ndarray, "object y x"] | None = None,
    *,
    pixel_scale: float,
) -> Moments:
    """Adaptive moments of each image; pixels of weight 0 are left out."""
    raise NotImplementedError
