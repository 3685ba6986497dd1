"""Along what a survey's objects are tallied: CCD, place, magnitude, colour."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from psfscale.survey.instrument import GridLayout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from psfscale.survey.instrument import Instrument

FIELD_CELLS = 64
"""Cells of the focal-plane map along the longer side."""
CCD_CELLS = 16
"""Cells of a CCD's map along the longer side."""
_MAGNITUDES = (-25.0, 0.0, 50)
_WAVELENGTHS = (0.3, 2.5, 220)
_MARGIN = 1.5
"""Of the side of a square of so many CCDs, where only the headers say where they lie."""


@dataclass(frozen=True, kw_only=True)
class Edges:
    """Equal bins of one column of the objects.

    Attributes
    ----------
    column : whose values are binned
    dim : of the table
    start, stop, n : range and number of the bins
    units, long_name : of the column
    """

    column: str
    dim: str
    start: float
    stop: float
    n: int
    units: str
    long_name: str

    @property
    def centres(self) -> np.ndarray:
        """Middles of the bins."""
        step = (self.stop - self.start) / self.n
        return self.start + step * (np.arange(self.n) + 0.5)

    def index(self, values: np.ndarray) -> np.ndarray:
        """Bin of each value; −1 outside the range and where there is none."""
        with np.errstate(invalid="ignore"):
            at = np.floor((values - self.start) / (self.stop - self.start) * self.n)
            inside = (at >= 0) & (at < self.n)
        return np.where(inside, at, -1).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One way to sort objects into cells.

    Attributes
    ----------
    name : of the table
    edges : bins along each dim
    is_map : whether the cells are places; maps have no quantiles
    """

    name: str
    edges: tuple[Edges, ...]
    is_map: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Cells along each dim."""
        return tuple(edges.n for edges in self.edges)

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the dims."""
        return tuple(edges.dim for edges in self.edges)

    @property
    def n_cells(self) -> int:
        """Cells in all."""
        return prod(self.shape)

    def cells(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Cell of each object, −1 where it has none."""
        n = len(next(iter(columns.values())))
        cell, inside = np.zeros(n, np.int64), np.ones(n, bool)
        for edges in self.edges:
            at = edges.index(columns[edges.column])
            cell, inside = cell * edges.n + at, inside & (at >= 0)
        return np.where(inside, cell, -1)


def axes_of(instrument: Instrument) -> tuple[Axis, ...]:
    """The ways to sort objects of an instrument; the same for all its surveys."""
    ccd = Edges(
        column="ccd",
        dim="ccd",
        start=-0.5,
        stop=instrument.focal_plane.n_ccds - 0.5,
        n=instrument.focal_plane.n_ccds,
        units="",
        long_name="CCD id",
    )
    return (
        Axis(name="overall", edges=()),
        Axis(name="by_ccd", edges=(ccd,)),
        Axis(name="by_magnitude", edges=(_magnitude(),)),
        Axis(name="by_colour", edges=(_colour(),)),
        Axis(name="over_field", edges=_field(instrument), is_map=True),
        Axis(name="over_ccd", edges=(ccd, *_on_ccd(instrument)), is_map=True),
    )


def _magnitude() -> Edges:
    start, stop, n = _MAGNITUDES
    return Edges(
        column="brightness",
        dim="magnitude",
        start=start,
        stop=stop,
        n=n,
        units="mag",
        long_name="instrumental magnitude, −2.5 log10 of the flux [electron]",
    )


def _colour() -> Edges:
    start, stop, n = _WAVELENGTHS
    told = "mean wavelength of the object's spectrum, photons"
    return Edges(
        column="colour", dim="wavelength", start=start, stop=stop, n=n, units="um", long_name=told
    )


def _field(instrument: Instrument) -> tuple[Edges, Edges]:
    """Square cells over the whole focal plane."""
    reach_x, reach_y = _reach(instrument)
    cell = 2 * max(reach_x, reach_y) / FIELD_CELLS
    return _square("field", (reach_y, reach_x), cell, "mm", "focal-plane position from the axis")


def _square(
    prefix: str, reach: Sequence[float], cell: float, units: str, told: str
) -> tuple[Edges, Edges]:
    found = []
    for letter, half in zip("yx", reach, strict=True):
        n = int(np.ceil(2 * half / cell - 1e-9))
        found.append(
            Edges(
                column=f"{prefix}_{letter}",
                dim=f"{prefix}_{letter}",
                start=-n * cell / 2,
                stop=n * cell / 2,
                n=n,
                units=units,
                long_name=f"{told}, along {letter}",
            )
        )
    return found[0], found[1]


def _reach(instrument: Instrument) -> tuple[float, float]:
    """How far the focal plane reaches from the axis, in x and y [mm]."""
    detector, plane = instrument.detector, instrument.focal_plane
    width, height = (n * detector.pixel_size * 1e-3 for n in (detector.columns, detector.rows))
    if isinstance(plane.layout, GridLayout):
        pitch_x, pitch_y = plane.layout.pitch(detector)
        across, along = plane.layout.columns - 1, plane.layout.rows - 1
        return (across * pitch_x + width) / 2, (along * pitch_y + height) / 2
    side = _MARGIN * float(np.sqrt(plane.n_ccds * width * height)) / 2 + max(width, height) / 2
    return side, side


def _on_ccd(instrument: Instrument) -> tuple[Edges, Edges]:
    """Square cells of a CCD, the first pixel's corner at −0.5."""
    sides = instrument.detector.rows, instrument.detector.columns
    cell = max(sides) / CCD_CELLS
    found = []
    for letter, pixels in zip("yx", sides, strict=True):
        n = max(round(pixels / cell), 1)
        found.append(
            Edges(
                column=letter,
                dim=letter,
                start=-0.5,
                stop=pixels - 0.5,
                n=n,
                units="pixel",
                long_name=f"position on the CCD, along {letter}",
            )
        )
    return found[0], found[1]
