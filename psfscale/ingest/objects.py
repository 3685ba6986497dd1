"""Objects of one CCD: from what a reader found to what the store takes."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, Int, UInt

from psfscale.arrays import ObjectFlag, Role
from psfscale.store.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Kind = Literal["star", "galaxy"]
GROUPS: dict[Kind, str] = {"star": "stars", "galaxy": "galaxies"}


@dataclass(frozen=True, kw_only=True)
class Objects:
    """Objects of one kind on one CCD, in catalogue order and in the units of the store.

    Attributes
    ----------
    id : of the object in its catalogue
    x, y : [pixel], 0-based; NaN where there is no position
    ra, dec : [deg]; NaN where unknown
    flux : [electron]; NaN where unknown
    snr : NaN where the catalogue has none
    flags : bits known from catalogue and pixels
    image : (object, y, x) [electron]; NaN allowed
    weight : (object, y, x) [1/electron²]; 0 where masked
    sed_id : template of the spectrum, 0 the flat one
    sed : (object, bin) photons per bin, sum 1, where objects bring their own spectra
    full : level above the sky at which a pixel saturates [electron]; None or NaN where unknown
    n_not_selected : rows that the recipe's cuts left out, or that lack a value
    missing : by column, how many of these lack its value
    """

    id: Int[np.ndarray, " object"]
    x: Float[np.ndarray, " object"]
    y: Float[np.ndarray, " object"]
    ra: Float[np.ndarray, " object"]
    dec: Float[np.ndarray, " object"]
    flux: Float[np.ndarray, " object"]
    snr: Float[np.ndarray, " object"]
    flags: UInt[np.ndarray, " object"]
    image: Float[np.ndarray, "object y x"]
    weight: Float[np.ndarray, "object y x"]
    sed_id: Int[np.ndarray, " object"]
    sed: Float[np.ndarray, "object bin"] | None = None
    full: Float[np.ndarray, " object"] | None = None
    n_not_selected: int = 0
    missing: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.id)

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Name and array of every property, in a fixed order."""
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                yield item.name, value

    def take(self, rows: np.ndarray) -> Objects:
        """The objects at these rows."""
        return replace(self, **{name: array[rows] for name, array in self.arrays()})


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """Objects that go into the store, and why the others do not."""

    objects: Objects
    role: UInt[np.ndarray, " object"]
    refused: tuple[tuple[int, Refusal], ...]
    """(id, reason) of every object refused, rows not selected aside."""

    @property
    def n_masked(self) -> int:
        """Objects with masked pixels."""
        return int(np.count_nonzero(self.objects.flags & ObjectFlag.MASKED))

    @property
    def n_no_sky(self) -> int:
        """Objects whose right ascension or declination is unknown."""
        return int(np.count_nonzero(~np.isfinite(self.objects.ra + self.objects.dec)))


@dataclass(frozen=True, kw_only=True)
class Placed(Admitted):
    """Admitted objects with their place in the focal plane [mm] and on the sky.

    `jacobian` is [[du/dx, du/dy], [dv/dx, dv/dy]] [arcsec / pixel], NaN without a WCS.
    """

    field_x: Float[np.ndarray, " object"]
    field_y: Float[np.ndarray, " object"]
    jacobian: Float[np.ndarray, "object 2 2"]


def admit(
    objects: Objects,
    *,
    role: UInt[np.ndarray, " object"],
    reason: Int[np.ndarray, " object"],
    ccd_shape: tuple[int, int],
    capacity: int,
) -> Admitted:
    """Refuse what cannot be used, mask pixels that are not finite, set the pixel flags.

    Parameters
    ----------
    objects : as read
    role : of each; EMPTY for those that may be neither fitted nor held out
    reason : of each that is refused already, -1 for the others
    ccd_shape : (y, x) pixels of the CCD
    capacity : objects for which the store has room
    """
    finite = np.isfinite(objects.image)
    good = np.isfinite(objects.weight) & (objects.weight > 0) & finite
    reason = _refusals(
        objects,
        ccd_shape,
        reason=reason.astype(np.int64),
        finite=finite,
        good=good,
        unused=role == Role.EMPTY,
        capacity=capacity,
    )
    taken = np.flatnonzero(reason < 0)
    flags = _pixel_flags(objects, ccd_shape, good)
    image = np.where(finite, objects.image, 0).astype(np.float32)
    weight = np.where(good, objects.weight, 0).astype(np.float32)
    snr = np.where(np.isfinite(objects.snr), objects.snr, stamp_snr(image, weight))
    clean = replace(objects, image=image, weight=weight, flags=flags, snr=snr)
    refused = np.flatnonzero(reason >= 0)
    return Admitted(
        objects=clean.take(taken),
        role=role[taken],
        refused=tuple((int(objects.id[i]), Refusal(int(reason[i]))) for i in refused),
    )


def _refusals(
    objects: Objects,
    ccd_shape: tuple[int, int],
    *,
    reason: np.ndarray,
    finite: np.ndarray,
    good: np.ndarray,
    unused: np.ndarray,
    capacity: int,
) -> np.ndarray:
    """(object,) the first reason that holds after those in `reason`, or -1."""

    def refuse(rows: Any, why: Refusal) -> None:
        reason[rows & (reason < 0)] = why

    refuse(~np.isfinite(objects.x + objects.y), Refusal.NO_POSITION)
    refuse(~inside_ccd(objects.x, objects.y, ccd_shape), Refusal.OUTSIDE_CCD)
    refuse(~finite.any(axis=(1, 2)), Refusal.NOT_FINITE)
    refuse(~good.any(axis=(1, 2)), Refusal.ALL_MASKED)
    left = np.flatnonzero(reason < 0)
    _, first = np.unique(objects.id[left], return_index=True)
    repeated = np.zeros(len(objects), bool)
    repeated[np.delete(left, first)] = True
    refuse(repeated, Refusal.DUPLICATE_ID)
    refuse(unused, Refusal.BESIDE_RESERVED)
    beyond = np.zeros(len(objects), bool)
    beyond[np.flatnonzero(reason < 0)[capacity:]] = True
    refuse(beyond, Refusal.OVERFLOW)
    return reason


def inside_ccd(x: np.ndarray, y: np.ndarray, ccd_shape: tuple[int, int]) -> np.ndarray:
    """(object,) True where the position lies on a pixel; False where it is NaN."""
    rows, columns = ccd_shape
    inside: np.ndarray = (x >= -0.5) & (x < columns - 0.5) & (y >= -0.5) & (y < rows - 0.5)
    return inside


def nearest_pixel(position: np.ndarray) -> np.ndarray:
    """Index of the pixel that holds a position; -1 far outside where it is NaN."""
    pixel: np.ndarray = np.floor(np.nan_to_num(position, nan=-1e6) + 0.5).astype(np.int64)
    return pixel


def _pixel_flags(objects: Objects, ccd_shape: tuple[int, int], good: np.ndarray) -> np.ndarray:
    edge = np.zeros(len(objects), bool)
    for position, size, n in (
        (objects.y, objects.image.shape[1], ccd_shape[0]),
        (objects.x, objects.image.shape[2], ccd_shape[1]),
    ):
        first = nearest_pixel(position) - size // 2
        edge |= (first < 0) | (first + size > n)
    flags = objects.flags.astype(np.uint32)
    flags[edge] |= np.uint32(ObjectFlag.EDGE)
    flags[~good.all(axis=(1, 2))] |= np.uint32(ObjectFlag.MASKED)
    return flags


def stamp_snr(image: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(object,) S/N of the stamp: sqrt(Σ w I² − n), n the number of weighted pixels.

    Σ w I² of pure noise is n on average; what is above it is signal, and its root is the
    S/N of a matched filter.
    """
    chi2 = np.einsum("nyx,nyx->n", weight, np.square(image, dtype=np.float64))
    snr: np.ndarray = np.sqrt(np.maximum(chi2 - np.count_nonzero(weight, axis=(1, 2)), 0.0))
    return snr
