"""The entrance pupil of a telescope as samples of its amplitude."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from psfscale.survey.instrument import Telescope

__all__ = ["PupilShape", "pupil_amplitude", "pupil_axis"]

PupilGrid = Literal["areas", "edges"]

_SUBSAMPLES = 8
"""Points along a side of a pupil sample at which its open area is judged."""


@dataclass(frozen=True, kw_only=True)
class PupilShape:
    """A round aperture and what blocks it.

    Attributes
    ----------
    diameter : of the aperture [mm]
    discs : round obstructions: x, y, diameter [mm]
    vanes : x, y of the middle [mm], angle [deg], width, length [mm]; cut to a disc
    """

    diameter: float
    discs: tuple[tuple[float, float, float], ...] = ()
    vanes: tuple[tuple[float, float, float, float, float], ...] = ()

    @classmethod
    def of(cls, telescope: Telescope) -> PupilShape:
        """The pupil of a survey file."""
        cap = telescope.pupil.secondary
        return cls(
            diameter=telescope.aperture * 1e3,
            discs=() if cap is None else ((cap.x, cap.y, cap.diameter),),
            vanes=tuple((v.x, v.y, v.angle, v.width, v.length) for v in telescope.pupil.spiders),
        )

    def passes(self, x: Float[np.ndarray, ...], y: Float[np.ndarray, ...]) -> Bool[np.ndarray, ...]:
        """Whether the points (x, y) [mm] of the pupil plane pass light."""
        open_ = np.hypot(x, y) <= self.diameter / 2
        for x0, y0, diameter in self.discs:
            open_ &= np.hypot(x - x0, y - y0) >= diameter / 2
        for x0, y0, angle, width, length in self.vanes:
            turn = np.deg2rad(angle)
            across = (y - y0) * np.cos(turn) - (x - x0) * np.sin(turn)
            near = np.hypot(x - x0, y - y0) <= length / 2
            open_ &= ~(near & (np.abs(across) < width / 2))
        return np.asarray(open_)


def pupil_axis(n: int, *, grid: PupilGrid) -> Float[np.ndarray, " sample"]:
    """Places of `n` pupil samples along an axis, in radii of the aperture."""
    if grid == "edges":
        return np.linspace(-1, 1, n)
    return (np.arange(n) - (n - 1) / 2) * (2 / n)


def pupil_amplitude(shape: PupilShape, n: int, *, grid: PupilGrid) -> Float[np.ndarray, "y x"]:
    """Amplitude of the pupil on `n` samples a side, in [0, 1].

    A sample's amplitude is the open share of its area; on a grid from edge to edge, as in the
    published simulator, that of the point samples in a box of 2 x 2, cut by the aperture.
    """
    radius = shape.diameter / 2
    if grid == "edges":
        x, y = np.meshgrid(*2 * [pupil_axis(n, grid=grid)])
        point = np.pad(shape.passes(radius * x, radius * y).astype(float), ((1, 0), (1, 0)))
        box = (point[1:, 1:] + point[:-1, 1:] + point[1:, :-1] + point[:-1, :-1]) / 4
        return np.asarray(box * (np.hypot(x, y) <= 1))
    u = radius * pupil_axis(n * _SUBSAMPLES, grid="areas")
    share = np.empty((n, n))
    for row in range(n):
        inside = shape.passes(*np.meshgrid(u, u[row * _SUBSAMPLES : (row + 1) * _SUBSAMPLES]))
        share[row] = inside.reshape(_SUBSAMPLES, n, _SUBSAMPLES).mean(axis=(0, 2))
    return share
