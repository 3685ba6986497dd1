"""Where a pixel of a CCD lies in the focal plane."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psfscale.errors import InputError
from psfscale.survey.instrument import GridLayout

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from psfscale.survey.instrument import Instrument

_MM_PER_MICRON = 1e-3


def field_position(
    instrument: Instrument,
    ccd: int,
    x: Float[np.ndarray, " object"],
    y: Float[np.ndarray, " object"],
    *,
    reference_pixel: tuple[float, float] | None = None,
) -> tuple[Float[np.ndarray, " object"], Float[np.ndarray, " object"]]:
    """Position from the optical axis [mm] of pixels of a CCD.

    Parameters
    ----------
    instrument : whose focal plane it is
    ccd : id of the CCD
    x, y : (object,) [pixel], 0-based
    reference_pixel : 1-based pixel (CRPIX1, CRPIX2) on the axis; a grid needs none

    Raises
    ------
    InputError
        The instrument has no such CCD, or its layout needs the reference pixel.
    """
    plane, detector = instrument.focal_plane, instrument.detector
    pixel = detector.pixel_size * _MM_PER_MICRON
    if ccd not in plane.ccd_ids:
        msg = f"CCD {ccd} is none of {plane.ccd_ids.start} to {plane.ccd_ids.stop - 1}"
        raise InputError(msg)
    if not isinstance(plane.layout, GridLayout):
        if reference_pixel is None:
            msg = "the survey's layout places CCDs by CRPIX1 and CRPIX2, which are missing"
            raise InputError(msg)
        return (x - (reference_pixel[0] - 1)) * pixel, (y - (reference_pixel[1] - 1)) * pixel
    layout = plane.layout
    row, column = divmod(plane.ccd_ids.index(ccd), layout.columns)
    pitch_x = detector.columns * pixel + layout.gap_x
    pitch_y = detector.rows * pixel + layout.gap_y
    centre_x = (column - (layout.columns - 1) / 2) * pitch_x
    centre_y = (row - (layout.rows - 1) / 2) * pitch_y
    along = -pixel if is_turned(instrument, ccd) else pixel
    return (
        centre_x + (x - (detector.columns - 1) / 2) * along,
        centre_y + (y - (detector.rows - 1) / 2) * along,
    )


def is_turned(instrument: Instrument, ccd: int) -> bool:
    """Whether the pixel axes of a CCD point against those of the focal plane."""
    layout = instrument.focal_plane.layout
    return isinstance(layout, GridLayout) and ccd in layout.turned
