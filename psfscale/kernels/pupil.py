"""The entrance pupil of a telescope as samples of its amplitude."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from psfscale.survey.instrument import Rendering, Telescope

__all__ = ["open_area", "pupil_amplitude", "pupil_axis"]

_SUBSAMPLES = 8
"""Points along a side of a pupil sample at which its open area is judged."""


def open_area(
    telescope: Telescope, x: Float[np.ndarray, "*grid"], y: Float[np.ndarray, "*grid"]
) -> Bool[np.ndarray, "*grid"]:
    """Which points (x, y) [mm] of the pupil plane pass light."""
    open_ = np.hypot(x, y) <= telescope.aperture * 1e3 / 2
    if (cap := telescope.pupil.secondary) is not None:
        open_ &= np.hypot(x - cap.x, y - cap.y) >= cap.diameter / 2
    for vane in telescope.pupil.spiders:
        angle = np.deg2rad(vane.angle)
        across = (y - vane.y) * np.cos(angle) - (x - vane.x) * np.sin(angle)
        near = np.hypot(x - vane.x, y - vane.y) <= vane.length / 2
        open_ &= ~(near & (np.abs(across) < vane.width / 2))
    return np.asarray(open_)


def pupil_axis(rendering: Rendering, n: int) -> Float[np.ndarray, " sample"]:
    """Places of `n` pupil samples along an axis, in radii of the aperture."""
    if rendering.pupil_grid == "edges":
        return np.linspace(-1, 1, n)
    return (np.arange(n) - (n - 1) / 2) * (2 / n)


def pupil_amplitude(telescope: Telescope, rendering: Rendering) -> Float[np.ndarray, "y x"]:
    """Amplitude of the pupil on `pupil_samples` a side, in [0, 1].

    A sample's amplitude is the open share of its area; on a grid from edge to edge, as in the
    published simulator, that of the point samples in a box of 2 x 2, cut by the aperture.
    """
    n = rendering.pupil_samples
    radius = telescope.aperture * 1e3 / 2
    if rendering.pupil_grid == "edges":
        x, y = np.meshgrid(*2 * [pupil_axis(rendering, n)])
        point = np.pad(open_area(telescope, radius * x, radius * y).astype(float), (1, 0))
        box = (point[1:, 1:] + point[:-1, 1:] + point[1:, :-1] + point[:-1, :-1]) / 4
        return np.asarray(box * (np.hypot(x, y) <= 1))
    fine = n * _SUBSAMPLES
    u = (np.arange(fine) - (fine - 1) / 2) * (2 * radius / fine)
    share = np.empty((n, n))
    for row in range(n):
        part = slice(row * _SUBSAMPLES, (row + 1) * _SUBSAMPLES)
        inside = open_area(telescope, *np.meshgrid(u, u[part]))
        share[row] = inside.reshape(_SUBSAMPLES, n, _SUBSAMPLES).mean(axis=(0, 2))
    return share
