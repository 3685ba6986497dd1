"""Convex hull of the stars of a fit: beyond it a field is extrapolated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = ["hull_corners", "outside_hull"]


def outside_hull(
    places: Float[np.ndarray, "star 2"],
    x: Float[np.ndarray, " object"],
    y: Float[np.ndarray, " object"],
) -> Bool[np.ndarray, " object"]:
    """Whether points lie outside the convex hull of some places; all do where there is no hull."""
    from scipy.spatial import Delaunay, QhullError

    try:
        hull = Delaunay(places)
    except (QhullError, ValueError):  # fewer than three stars, or all on a line
        return np.ones(np.shape(x), bool)
    return np.asarray(hull.find_simplex(np.column_stack([x, y])) < 0)


def hull_corners(places: Float[np.ndarray, "star 2"]) -> Float[np.ndarray, "corner 2"]:
    """Corners of the convex hull of some places; the places themselves where there is none."""
    from scipy.spatial import ConvexHull, QhullError

    try:
        return np.asarray(places[ConvexHull(places).vertices])
    except (QhullError, ValueError):
        return np.asarray(places)
