"""What a fit starts from: functions of position, wavelengths of spectra, coarse optics."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from psfscale.kernels.optics.spectrum import flat_spectrum, quadrature
from psfscale.models.position import PositionPolynomials

if TYPE_CHECKING:
    from jaxtyping import Float

    from psfscale.arrays import FieldPoints, StarBatch
    from psfscale.models.wavediff.optics import LightPath
    from psfscale.models.wavediff.settings import OpticsSettings

__all__ = ["around", "coarse_factor", "spectra_of"]

COARSE_SAMPLES = 64
"""Pupil samples a side of the coarse optics, if they resolve the stamp and more."""
COARSE_ROOM = 1.5
"""Fields that the coarse optics must resolve [stamp]."""


def spectra_of(
    points: FieldPoints, optics: OpticsSettings, n_nodes: int
) -> tuple[Float[np.ndarray, " node"], Float[np.ndarray, "object node"]]:
    """Wavelengths and weights for the spectra of some points; flat ones where there are none."""
    if points.sed is not None and points.wavelength is not None:
        return quadrature(points.sed, points.wavelength, n_nodes=n_nodes)
    sed, wavelength = flat_spectrum(optics.minimum, optics.maximum)
    return quadrature(np.tile(sed, (len(points), 1)), wavelength, n_nodes=n_nodes)


def coarse_factor(path: LightPath, size: int) -> int:
    """How many times fewer pupil samples still resolve the stamp."""
    n = len(path.axis)
    enough = max(COARSE_SAMPLES, COARSE_ROOM * size * n / path.widest)
    factors = [k for k in range(1, n) if n % (2 * k) == 0 and n / k >= enough]
    return max(factors, default=1)


def around(stars: StarBatch, degree: int) -> PositionPolynomials:
    """Functions over the stars' range and, as stars end short of the field, a little more."""
    positions = PositionPolynomials.around(stars.x, stars.y, degree=degree)
    margin = 3 / len(stars)
    box = tuple((a - margin * (b - a), b + margin * (b - a)) for a, b in positions.box)
    return replace(positions, box=(box[0], box[1]))
