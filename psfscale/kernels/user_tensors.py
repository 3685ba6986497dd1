"""The door for users' arrays into torch and out of it: tensors stay where they are."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from psfscale.errors import InputError
from psfscale.user_arrays import finite_numbers, flux_unit, read_numbers

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Array", "array_fields", "finite_tensor", "read_tensor", "unit_of_images"]

Array = TypeVar("Array", torch.Tensor, np.ndarray)
"""The arrays of a result: tensors of a user's tensors, NumPy arrays of all else."""


def read_tensor(values: Any, name: str, *, unit: Any = None) -> tuple[Tensor, Tensor | None]:
    """Read the numbers of a user's array as float32 or float64, and where it was masked.

    Parameters
    ----------
    values : any array that `psfscale.user_arrays` takes; a tensor stays on its device
    name : for errors
    unit : that quantities are converted to; their own where None

    Raises
    ------
    InputError
        The array does not hold real numbers, or is in another unit.
    """
    if isinstance(values, torch.Tensor):
        if values.is_complex():
            msg = f"{name} must hold real numbers, got {values.dtype}"
            raise InputError(msg)
        values = values.detach()
        wide = values.dtype == torch.float64 or (
            not values.is_floating_point() and values.dtype.itemsize > 2
        )
        return values.to(torch.float64 if wide else torch.float32), None
    read = read_numbers(values, name, unit=unit)
    masked = None if read.masked is None else torch.from_numpy(read.masked)
    return torch.from_numpy(read.values), masked


def finite_tensor(values: Any, name: str, *, unit: Any = None) -> Tensor:
    """Read an array that must be whole: nothing masked, NaN or infinite.

    Raises
    ------
    InputError
        It is not.
    """
    if not isinstance(values, torch.Tensor):
        return torch.from_numpy(finite_numbers(values, name, unit=unit))
    tensor, _ = read_tensor(values, name)
    if not bool(torch.isfinite(tensor).all()):
        n = int((~torch.isfinite(tensor)).sum())
        msg = f"{name} must be finite: {n} of {tensor.numel()} values are NaN or infinite"
        raise InputError(msg)
    return tensor


def array_fields(record: Any, *, of: type | None = None) -> dict[str, Any]:
    """Return what a dataclass holds by name, tensors as NumPy arrays.

    Parameters
    ----------
    record : any dataclass
    of : dataclass whose fields are taken from `record`; its own where None
    """
    names = (field.name for field in fields(of or record))
    return {name: _array(getattr(record, name)) for name in names}


def _array(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_array, value))
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else value


def unit_of_images(values: Any) -> float:
    """Return the flux unit to work on images in; see `psfscale.user_arrays.flux_unit`."""
    image, masked = read_tensor(values, "images")
    used = image if masked is None else image[~masked.to(image.device)]
    finite = used[torch.isfinite(used)].abs()
    return flux_unit(float(finite.max())) if len(finite) else 1.0
