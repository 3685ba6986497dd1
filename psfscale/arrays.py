"""Value objects that cross the rooms of psfscale, and the codes stored beside them.

Conventions, everywhere: batch axes first, ``y`` before ``x``; positions in pixels of the
CCD, the centre of the first pixel is 0; wavelengths in µm; flux in electrons; weights are
inverse variances, 0 where a pixel is masked.

**Centre of a stamp.** The centre of an axis of ``n`` pixels is index ``n // 2`` (0-based):
the middle pixel of an odd stamp, the pixel right of the middle of an even one. A PSF drawn
on a grid has its windowed centroid there, at every oversampling.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float

from psfscale.errors import InputError
from psfscale.user_arrays import finite_numbers, flux_unit, read_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "STANDS_OUT",
    "USABLE",
    "FieldPoints",
    "ObjectFlag",
    "PixelGrid",
    "Role",
    "StarBatch",
    "UnitState",
    "centre_index",
]


class Role(IntEnum):
    """What an entry of the star axis is for."""

    EMPTY = 0
    FIT = 1
    RESERVED = 2


class ObjectFlag(IntFlag):
    """Bits of every ``flags`` array; described by its CF attributes (`psfscale.attributes`)."""

    EDGE = 1
    """The stamp reaches over the edge of the CCD."""
    MASKED = 2
    """At least one pixel of the stamp is masked."""
    CATALOGUE = 4
    """The source catalogue flagged the object."""
    SATURATED = 8
    """At least one pixel is saturated."""
    OUTLIER = 16
    """Clipped from the fit as an outlier; of a reserved star, its χ² or centroid stands out."""
    MOMENTS_FAILED_DATA = 32
    """The adaptive moments of the star, or of the restored galaxy, could not be measured."""
    MOMENTS_FAILED_MODEL = 64
    """The adaptive moments of the model could not be measured."""
    PSF_MISSING = 128
    """No PSF: the CCD has no model."""
    EXTRAPOLATED = 256
    """The PSF is evaluated outside the convex range of the fitted stars."""
    NOT_CONVERGED = 512
    """The solver stopped at its iteration limit."""
    BLENDED = 1024
    """Light beside the object that its model does not explain: a neighbour."""
    LEFT_OUT = 2048
    """Neither fitted nor measured: the run leaves out stars with such flags (`stars.leave_out`)."""


STANDS_OUT = ObjectFlag.OUTLIER | ObjectFlag.BLENDED | ObjectFlag.LEFT_OUT
"""Bits of ``stars/flags`` with which a reserved star does not count in the headline figures."""


class UnitState(IntEnum):
    """What became of one CCD in one stage."""

    PENDING = 0
    """Not run yet."""
    DONE = 1
    EMPTY = 2
    """Nothing to do: the CCD holds no object of this kind, or is left out of a sample."""
    QUARANTINED = 3
    """Failed; the reason stands in the marker of its unit."""
    BLOCKED = 4
    """Not tried: a stage before it failed on this CCD."""
    NOT_ASKED = 5
    """The latest run does not want this stage here, and no earlier one has run it."""
    DOUBTFUL = 6
    """Done and used as such, but a quality check tripped; the reason stands in the marker."""

    @property
    def usable(self) -> bool:
        """Whether the stage has a result on the CCD."""
        return self in USABLE

    @property
    def ended(self) -> bool:
        """Whether the stage has run on the CCD, or found that it need not or cannot."""
        return self not in (UnitState.PENDING, UnitState.NOT_ASKED)


USABLE = (UnitState.DONE, UnitState.DOUBTFUL)
"""States of a CCD on which a stage has a result, and the stages after it go on."""


def centre_index(n: int) -> int:
    """Index of the centre of an axis of ``n`` pixels: ``n // 2``."""
    return n // 2


STACK_SAMPLES = 3
"""Cells of the stack of a CCD's stars per CCD pixel."""
STACK_SIDE = 25
"""Side of the stack, at most [CCD pixel]."""


def stack_shape(stamp: tuple[int, int]) -> tuple[int, int]:
    """Return the (y, x) cells of the stack of stars whose stamps have this shape [pixel]."""
    return STACK_SAMPLES * min(stamp[0], STACK_SIDE), STACK_SAMPLES * min(stamp[1], STACK_SIDE)


def _require_shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        msg = f"{name} has shape {shape}, expected {expected}"
        raise InputError(msg)


def _require_spectra(sed: np.ndarray | None, wavelength: np.ndarray | None, n: int) -> None:
    if (sed is None) != (wavelength is None):
        msg = "sed and wavelength go together: give both or neither"
        raise InputError(msg)
    if sed is not None and wavelength is not None:
        _require_shape("sed", sed.shape, (n, wavelength.shape[-1]))


def _set(frozen: object, **values: np.ndarray | None) -> None:
    """Replace what a frozen value object was made with by plain arrays."""
    for name, array in values.items():
        object.__setattr__(frozen, name, array)


def _positions(of: StarBatch | FieldPoints) -> dict[str, np.ndarray]:
    return {name: finite_numbers(getattr(of, name), name, unit="pixel") for name in ("x", "y")}


def _spectra(of: StarBatch | FieldPoints) -> dict[str, np.ndarray | None]:
    units = {"sed": None, "wavelength": "um"}
    given = ((name, unit) for name, unit in units.items() if getattr(of, name) is not None)
    return {name: finite_numbers(getattr(of, name), name, unit=unit) for name, unit in given}


LARGEST_SIDE = 10_000
"""Of a stamp to draw on [pixel]: a PSF of 10,000² float64 takes 0.8 GB."""


@dataclass(frozen=True, kw_only=True)
class PixelGrid:
    """A stamp to draw on: ``shape`` (y, x) pixels, ``oversampling`` of them a CCD pixel.

    Drawn PSFs are centred on index ``n // 2`` of each axis and sum to 1.

    Attributes
    ----------
    shape : (y, x) pixels of the stamp
    oversampling : stamp pixels per CCD pixel
    pixel : ``"native"``, the effective PSF, with the CCD's pixel in it; ``"none"``, the optical
        PSF, point-sampled
    centre : ``"windowed"``, the windowed centroid on index ``n // 2``; ``"axis"``, the optical
        axis there; ``"auto"``, the axis where a model was fitted to stamps registered to it
    """

    shape: tuple[int, int]
    oversampling: int = 1
    pixel: Literal["native", "none"] = "native"
    centre: Literal["auto", "windowed", "axis"] = "auto"

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or self.oversampling < 1:
            msg = f"a pixel grid needs positive sizes, got {self}"
            raise InputError(msg)
        if max(*self.shape, self.oversampling) > LARGEST_SIDE:
            msg = f"a pixel grid has at most {LARGEST_SIDE} pixels along a side, got {self}"
            raise InputError(msg)

    def require_effective(self, model: str) -> None:
        """Refuse what a model without optics cannot draw.

        Raises
        ------
        InputError
            The grid asks for the optical PSF, or for the optical axis.
        """
        if self.pixel == "none" or self.centre == "axis":
            msg = (
                f"{model} knows the effective PSF alone: draw it with pixel=native and "
                "centre=windowed, or fit wavediff"
            )
            raise InputError(msg)


@dataclass(frozen=True, kw_only=True)
class StarBatch:
    """Stars of one CCD: images, weights and positions, and spectra where known.

    Arrays of any kind are taken (`psfscale.user_arrays`): masked pixels of masked arrays get weight
    0, quantities are converted. They are plain numpy arrays of floats afterwards.

    Attributes
    ----------
    image : (star, y, x) [electron, or any flux unit]; finite wherever ``weight`` is positive
    weight : (star, y, x) [1/electron²], 0 where masked
    x, y : (star,) [pixel], 0-based
    sed : (star, wavelength), photons per bin, each row sums to 1, or None
    wavelength : (wavelength,) [µm], or None

    Raises
    ------
    InputError
        Shapes disagree, a weight is negative or not finite, a weighted pixel or a
        position is not finite, or a star has no weighted pixel.
    """

    image: Float[np.ndarray, "star y x"]
    weight: Float[np.ndarray, "star y x"]
    x: Float[np.ndarray, " star"]
    y: Float[np.ndarray, " star"]
    sed: Float[np.ndarray, "star wavelength"] | None = None
    wavelength: Float[np.ndarray, " wavelength"] | None = None

    def __post_init__(self) -> None:
        self._take_arrays()
        if self.image.ndim != 3:
            msg = f"image has shape {self.image.shape}, expected (star, y, x)"
            raise InputError(msg)
        n = len(self.image)
        _require_shape("weight", self.weight.shape, self.image.shape)
        _require_shape("x", self.x.shape, (n,))
        _require_shape("y", self.y.shape, (n,))
        _require_spectra(self.sed, self.wavelength, n)
        self._require_values()

    def _take_arrays(self) -> None:
        """Make plain arrays of what the user gave; what is masked gets weight 0."""
        unit = getattr(self.image, "unit", None)
        image = read_numbers(self.image, "image")
        weight = read_numbers(self.weight, "weight", unit=None if unit is None else unit**-2)
        masks = [array.masked for array in (image, weight) if array.masked is not None]
        plain = weight.values
        for masked in masks:
            if masked.shape == plain.shape:
                plain = np.where(masked, 0, plain)
        _set(self, image=image.values, weight=plain, **_positions(self), **_spectra(self))

    def _require_values(self) -> None:
        if not np.isfinite(self.weight).all() or (self.weight < 0).any():
            msg = "weight must be finite and not negative (inverse variance, 0 = masked)"
            raise InputError(msg)
        used = self.weight > 0
        bad = np.flatnonzero((used & ~np.isfinite(self.image)).any(axis=(1, 2)))
        if bad.size:
            msg = (
                f"{bad.size} stars have NaN or infinite pixels with a positive weight "
                f"(first: {bad[:5].tolist()}); mask them with weight 0"
            )
            raise InputError(msg)
        empty = np.flatnonzero(~used.any(axis=(1, 2)))
        if empty.size:
            msg = f"{empty.size} stars are masked everywhere (first: {empty[:5].tolist()})"
            raise InputError(msg)

    def __len__(self) -> int:
        return len(self.image)

    @property
    def stamp_shape(self) -> tuple[int, int]:
        """(y, x) pixels of a stamp."""
        return int(self.image.shape[1]), int(self.image.shape[2])

    @property
    def points(self) -> FieldPoints:
        """The stars' positions and spectra."""
        return FieldPoints(x=self.x, y=self.y, sed=self.sed, wavelength=self.wavelength)

    @property
    def flux_unit(self) -> float:
        """Flux unit to fit the stars in; see `psfscale.user_arrays.flux_unit`."""
        return flux_unit(float(np.abs(self.image).max(where=self.weight > 0, initial=0)))

    def over(self, unit: float) -> StarBatch:
        """The stars in a flux unit `unit` times as large."""
        if unit == 1.0:
            return self
        return replace(self, image=self.image / unit, weight=self.weight * unit**2)

    def select(self, chosen: np.ndarray | Sequence[int]) -> StarBatch:
        """The stars picked by a boolean mask or by indices, in that order."""
        return StarBatch(
            image=self.image[chosen],
            weight=self.weight[chosen],
            x=self.x[chosen],
            y=self.y[chosen],
            sed=None if self.sed is None else self.sed[chosen],
            wavelength=self.wavelength,
        )


@dataclass(frozen=True, kw_only=True)
class FieldPoints:
    """Where, and at which colour, a PSF is wanted; arrays of any kind are taken.

    Attributes
    ----------
    x, y : (object,) [pixel], 0-based
    sed : (object, wavelength), photons per bin, each row sums to 1, or None
    wavelength : (wavelength,) [µm], or None

    Raises
    ------
    InputError
        Shapes disagree, or a position or a spectrum is masked or not finite.
    """

    x: Float[np.ndarray, " object"]
    y: Float[np.ndarray, " object"]
    sed: Float[np.ndarray, "object wavelength"] | None = None
    wavelength: Float[np.ndarray, " wavelength"] | None = None

    def __post_init__(self) -> None:
        _set(self, **_positions(self), **_spectra(self))
        if self.x.ndim != 1:
            msg = f"x has shape {self.x.shape}, expected (object,)"
            raise InputError(msg)
        _require_shape("y", self.y.shape, self.x.shape)
        _require_spectra(self.sed, self.wavelength, len(self.x))

    def __len__(self) -> int:
        return len(self.x)

    def select(self, chosen: slice | np.ndarray) -> FieldPoints:
        """The points picked by a slice, a boolean mask or indices, in that order."""
        return FieldPoints(
            x=self.x[chosen],
            y=self.y[chosen],
            sed=None if self.sed is None else self.sed[chosen],
            wavelength=self.wavelength,
        )
