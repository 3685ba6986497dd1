"""One PSF field over all CCDs of an exposure: where each CCD lies in it, and how it is turned.

Such a field lives in the focal plane, in pixels from the optical axis. A CCD may be mounted
turned by half a turn; its stamps are then turned back before a fit, and PSFs drawn for it turned.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from psfscale.errors import InputError
from psfscale.survey.geometry import field_position, is_turned
from psfscale.survey.instrument import GridLayout

if TYPE_CHECKING:
    from jaxtyping import Float

    from psfscale.arrays import FieldPoints, PixelGrid
    from psfscale.models.base import PsfModel
    from psfscale.survey import Instrument

_AGREE = 2.0
"""Pixels by which stored focal-plane positions may lie off the layout: rounding and distortion."""
_MICRON_PER_MM = 1e3


@dataclass(frozen=True, kw_only=True)
class CcdPlace:
    """Where a CCD lies in the focal plane.

    Attributes
    ----------
    x, y : of its first pixel, from the optical axis [pixel]
    turned : whether its axes point against those of the focal plane
    """

    x: float
    y: float
    turned: bool = False

    @classmethod
    def of(
        cls,
        instrument: Instrument,
        ccd: int,
        *,
        x: Float[np.ndarray, " object"],
        y: Float[np.ndarray, " object"],
        field_x: Float[np.ndarray, " object"],
        field_y: Float[np.ndarray, " object"],
    ) -> Self:
        """The place of a CCD, by the instrument's layout and by objects on it.

        Parameters
        ----------
        instrument : of the survey
        ccd : id
        x, y : of any objects on the CCD [pixel]
        field_x, field_y : the same objects in the focal plane [mm]

        Raises
        ------
        InputError
            The objects lie elsewhere than the layout says: the CCD is turned or mirrored and the
            survey file does not say so; or the layout needs an object and there is none.
        """
        scale = _MICRON_PER_MM / instrument.detector.pixel_size
        turned = is_turned(instrument, ccd)
        side = -1.0 if turned else 1.0
        if isinstance(instrument.focal_plane.layout, GridLayout):
            first = field_position(instrument, ccd, np.zeros(1), np.zeros(1))
            place = cls(x=float(first[0][0] * scale), y=float(first[1][0] * scale), turned=turned)
        elif len(x):
            left, low = field_x * scale - side * x, field_y * scale - side * y
            place = cls(x=float(np.median(left)), y=float(np.median(low)), turned=turned)
        else:
            msg = (
                f"CCD {ccd} holds no object, and the survey's layout does not say where it lies: "
                "give the layout as a grid"
            )
            raise InputError(msg)
        place.require(ccd, x=x, y=y, field_x=field_x * scale, field_y=field_y * scale)
        return place

    def require(
        self, ccd: int, *, x: np.ndarray, y: np.ndarray, field_x: np.ndarray, field_y: np.ndarray
    ) -> None:
        """That objects [pixel] lie in the focal plane [pixel] where the place says.

        Raises
        ------
        InputError
            They do not.
        """
        u, v = self.position(x, y)
        off = np.hypot(u - field_x, v - field_y)
        if len(off) and not off.max() <= _AGREE:
            worst = int(off.argmax())
            msg = (
                f"CCD {ccd}: the object at x={x[worst]:.1f}, y={y[worst]:.1f} lies "
                f"{off[worst]:.1f} pixels from where the layout has it in the focal plane; if the "
                "CCD is mounted turned by half a turn, name it in layout.turned; if it is turned "
                "otherwise or mirrored, fit a field per CCD (model.per: ccd)"
            )
            raise InputError(msg)

    def position(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels of the CCD in the focal plane [pixel from the axis]."""
        side = -1.0 if self.turned else 1.0
        return self.x + side * x, self.y + side * y

    def points(self, at: FieldPoints) -> FieldPoints:
        """Points of the CCD in the focal plane."""
        x, y = self.position(at.x, at.y)
        return replace(at, x=x, y=y)


class OnCcd:
    """A field of the focal plane, seen on one CCD; offers what a field of the CCD does.

    Parameters
    ----------
    model : of the focal plane
    place : of the CCD
    """

    def __init__(self, model: PsfModel, place: CcdPlace) -> None:
        self.model, self.place = model, place

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.model.name

    @property
    def settings(self) -> Any:
        """Settings of the model."""
        return self.model.settings

    @property
    def stamp_shape(self) -> tuple[int, int]:
        """(y, x) CCD pixels of the stars that were fitted."""
        return self.model.stamp_shape

    def predict(self, at: FieldPoints, grid: PixelGrid) -> Float[np.ndarray, "object y x"]:
        """PSFs at pixels of the CCD, each of unit sum, centred on index ``n // 2``."""
        there = self.place.points(at)
        if not self.place.turned:
            return self.model.predict(there, grid)
        height, width = grid.shape
        odd = height + 1 - height % 2, width + 1 - width % 2
        drawn = self.model.predict(there, replace(grid, shape=odd))[..., ::-1, ::-1]
        drawn = drawn[..., :height, :width]
        return np.asarray(drawn / drawn.sum((-2, -1), keepdims=True))


def half_turn(
    image: Float[np.ndarray, "star y x"], weight: Float[np.ndarray, "star y x"]
) -> tuple[Float[np.ndarray, "star y x"], Float[np.ndarray, "star y x"]]:
    """Stamps turned by half a turn about index ``n // 2``; what lay outside has no weight."""
    turned, inside = np.flip(image, (-2, -1)), np.flip(weight, (-2, -1))
    for axis in (-2, -1):
        if image.shape[axis] % 2 == 0:
            turned, inside = np.roll(turned, 1, axis), np.roll(inside, 1, axis)
            np.moveaxis(inside, axis, 0)[0] = 0
    return turned, np.ascontiguousarray(inside)
