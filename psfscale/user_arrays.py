"""The one door for arrays that a user hands over: any kind of array in, plain numbers out.

Taken are numpy arrays of every layout, byte order and real type, masked arrays, lists, tables'
columns, quantities with units, xarray DataArrays and torch tensors. What comes out is a numpy array
of this machine's byte order, contiguous, float32 or float64, and where the array was masked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from psfscale.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = ["UserArray", "finite_numbers", "plain_numbers", "read_numbers"]

TENSOR = "torch"
"""Package of classes that are tensors; it is not imported for this."""


@dataclass(frozen=True, kw_only=True)
class UserArray:
    """Numbers of a user's array.

    Attributes
    ----------
    values : of float32 or float64, contiguous, of this machine's byte order, writable
    masked : True where the array was masked, of the shape of `values`; None where it had no mask
    """

    values: Float[np.ndarray, ...]
    masked: Bool[np.ndarray, ...] | None


def read_numbers(values: Any, name: str, *, unit: Any = None) -> UserArray:
    """Read the numbers and the mask of a user's array.

    Parameters
    ----------
    values : the array
    name : for errors
    unit : an astropy unit, or its name, that quantities are converted to; their own where None

    Raises
    ------
    InputError
        The array does not hold real numbers, or is in a unit that is not `unit`.
    """
    masked = _mask(values)
    raw = _numpy(_unmasked(_of_unit(values, name, unit)), name)
    kind = np.result_type(raw.dtype, np.float32) if raw.dtype.kind in "biuf" else None
    if kind is None:
        msg = f"{name} must hold real numbers, got {raw.dtype}"
        raise InputError(msg)
    dtype = np.dtype(np.float32 if kind == np.float32 else np.float64)
    plain = np.require(raw, dtype=dtype, requirements=["C", "W"])
    return UserArray(values=plain, masked=masked)


def plain_numbers(values: Any, name: str, *, unit: Any = None) -> Float[np.ndarray, ...]:
    """Read the numbers of an array that cannot be masked in part.

    Raises
    ------
    InputError
        The array is masked somewhere, or as `read_numbers` says.
    """
    read = read_numbers(values, name, unit=unit)
    if read.masked is not None and read.masked.any():
        where = np.argwhere(read.masked)
        msg = (
            f"{name} is masked in {len(where)} places (first: {where[0].tolist()}); "
            "leave those objects out"
        )
        raise InputError(msg)
    return read.values


def finite_numbers(values: Any, name: str, *, unit: Any = None) -> Float[np.ndarray, ...]:
    """Read the numbers of an array that must be whole: nothing masked, NaN or infinite.

    Raises
    ------
    InputError
        A number is not finite, or as `plain_numbers` says.
    """
    plain = plain_numbers(values, name, unit=unit)
    bad = np.argwhere(~np.isfinite(plain))
    if len(bad):
        msg = (
            f"{name} must be finite: {len(bad)} of {plain.size} values are NaN or infinite "
            f"(first: {bad[0].tolist()}); leave those objects out"
        )
        raise InputError(msg)
    return plain


def is_tensor(values: Any) -> bool:
    """Whether the array is a torch tensor; torch is not imported."""
    return type(values).__module__.partition(".")[0] == TENSOR


def _mask(values: Any) -> np.ndarray | None:
    """Where the array is masked, of its shape; None where it has no mask."""
    if isinstance(values, np.ma.MaskedArray):
        return None if values.mask is np.ma.nomask else np.ma.getmaskarray(values).copy()
    if hasattr(values, "unmasked") and hasattr(values, "mask"):  # astropy's Masked
        return np.array(values.mask, dtype=bool)
    if isinstance(values, (list, tuple)) and any(isinstance(v, np.ma.MaskedArray) for v in values):
        return np.stack([np.ma.getmaskarray(np.ma.asarray(v)) for v in values])
    return None


def _unmasked(values: Any) -> Any:
    if hasattr(values, "unmasked"):
        return values.unmasked
    return np.ma.getdata(values) if isinstance(values, np.ma.MaskedArray) else values


def _of_unit(values: Any, name: str, unit: Any) -> Any:
    """The numbers of a quantity in `unit`; everything else as it is."""
    own = getattr(values, "unit", None)
    if own is None or is_tensor(values):
        return values
    values = getattr(values, "quantity", values)  # of a table's column
    try:
        return values.value if unit is None else values.to_value(unit)
    except Exception as error:
        if not isinstance(error, (ValueError, TypeError, AttributeError)):
            raise
        msg = f"{name} is in {own}, which does not convert to {unit}; convert it, or leave it plain"
        raise InputError(msg) from error


def _numpy(values: Any, name: str) -> np.ndarray:
    if is_tensor(values):
        values = values.detach().cpu()
        return np.asarray((values.float() if values.dtype.itemsize < 4 else values).numpy())
    try:
        array = np.asarray(values)
        if array.dtype.kind == "O":
            array = np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError) as error:
        msg = f"{name} is not an array of numbers: {error}"
        raise InputError(msg) from error
    return array


EXTREME = 2.0**40
"""Peak of images, or its inverse, from which they are worked on in another flux unit: squares,
inverse squares and their products leave the range of float32 there."""


def flux_unit(peak: float) -> float:
    """Return the flux unit to work in: the power of two next to `peak` where it is extreme, else 1.

    Powers of two change no digit of a number.

    Parameters
    ----------
    peak : largest magnitude of the pixels in use, in the images' own unit
    """
    if not np.isfinite(peak) or peak <= 0 or 1 / EXTREME < peak < EXTREME:
        return 1.0
    return float(2.0 ** np.round(np.log2(peak)))
