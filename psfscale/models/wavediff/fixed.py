"""A wavefront known beforehand, which a fit adds to and never changes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
from scipy.interpolate import RBFInterpolator

from psfscale.errors import InputError
from psfscale.models.base import StateArray
from psfscale.user_arrays import finite_numbers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float

__all__ = ["FixedWavefront", "fixed_arrays"]

NEIGHBOURS = 64
"""Points that the wavefront anywhere is interpolated from: the nearest."""
LINEAR = 3
"""Functions of position that an interpolation reproduces, and points that it needs at least."""
PREFIX = "fixed_"
"""Of the names of its arrays in a model's state."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedWavefront:
    """Noll coefficients over the field: polynomials of position, values at points, or their sum.

    Between points, thin-plate splines through the `NEIGHBOURS` nearest: they give back the
    values at the points, need no scale, and follow a linear field exactly, beyond the points too.

    Attributes
    ----------
    coefficient : (zernike, monomial) [µm] of ``u^(d-p) v^p``, d from 0 up, p from 0 to d
    x_range, y_range : (2,) positions [pixel] at which u and v are -1 and 1
    zernike : (point, zernike) [µm]
    x, y : (point,) [pixel]

    Raises
    ------
    InputError
        Arrays are missing, of shapes that do not fit, not finite, or points coincide or lie on
        a line.
    """

    coefficient: Float[np.ndarray, "zernike monomial"] | None = None
    x_range: Float[np.ndarray, 2] | None = None
    y_range: Float[np.ndarray, 2] | None = None
    zernike: Float[np.ndarray, "point zernike"] | None = None
    x: Float[np.ndarray, " point"] | None = None
    y: Float[np.ndarray, " point"] | None = None

    def __post_init__(self) -> None:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, array in given.items():
            if array is not None:
                plain = finite_numbers(array, f"fixed wavefront: {name}")
                object.__setattr__(self, name, plain)
        if self.coefficient is None and self.zernike is None:
            msg = (
                "a fixed wavefront needs coefficient (zernike, monomial) with x_range and y_range, "
                "or zernike (point, zernike) with x and y"
            )
            raise InputError(msg)
        if self.coefficient is not None:
            self._require_polynomials(self.coefficient)
        if self.zernike is not None:
            self._require_points(self.zernike)

    def _require_polynomials(self, coefficient: np.ndarray) -> None:
        if coefficient.ndim != 2 or coefficient.shape[1] != _n_monomials(coefficient):
            msg = (
                f"fixed wavefront: coefficient has shape {coefficient.shape}, expected "
                "(zernike, monomial) with 1, 3, 6, 10 ... monomials"
            )
            raise InputError(msg)
        for name, pair in (("x_range", self.x_range), ("y_range", self.y_range)):
            if pair is None or pair.shape != (2,) or pair[0] == pair[1]:
                msg = f"fixed wavefront: coefficient needs {name}, two different positions"
                raise InputError(msg)

    def _require_points(self, zernike: np.ndarray) -> None:
        x, y = self.x, self.y
        shapes = [None if p is None else p.shape for p in (x, y)]
        if zernike.ndim != 2 or x is None or y is None or shapes != [zernike.shape[:1]] * 2:
            msg = (
                f"fixed wavefront: zernike (point, zernike) has shape {zernike.shape} and needs x "
                f"and y of its first length, got {shapes[0]} and {shapes[1]}"
            )
            raise InputError(msg)
        spread = np.stack([np.ones_like(x), x - x.mean(), y - y.mean()], axis=1)
        spread = spread / np.abs(spread).max(axis=0).clip(min=1e-300)
        distinct = len(np.unique(np.stack([x, y], axis=1), axis=0)) == len(x)
        if not distinct or np.linalg.matrix_rank(spread) < LINEAR:
            msg = f"fixed wavefront: {len(x)} points must be different, and not all on a line"
            raise InputError(msg)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that there are, by name."""
        named = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: np.asarray(array) for name, array in named if array is not None}

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """(zernikes, monomials) of the polynomials and (points, zernikes); 0 where there are none.

        Settings keep them, so that a model's state can be declared.
        """
        one = (0, 0) if self.coefficient is None else self.coefficient.shape
        two = (0, 0) if self.zernike is None else self.zernike.shape
        return (one[0], one[1], two[0], two[1])

    @property
    def n_zernikes(self) -> int:
        """Last Noll index."""
        return max(self.sizes[0], self.sizes[3])

    def __call__(
        self, x: Float[np.ndarray, " object"], y: Float[np.ndarray, " object"]
    ) -> Float[np.ndarray, "object zernike"]:
        """Coefficients at positions [µm]."""
        out = np.zeros((len(x), self.n_zernikes))
        if self.coefficient is not None and self.x_range is not None and self.y_range is not None:
            u, v = _unit(x, self.x_range), _unit(y, self.y_range)
            degree = _degree(self.coefficient.shape[1])
            monomials = [u ** (d - p) * v**p for d in range(degree + 1) for p in range(d + 1)]
            out[:, : len(self.coefficient)] += np.stack(monomials, axis=1) @ self.coefficient.T
        if self.zernike is not None and len(x):
            at = np.stack([x, y], axis=1).astype(np.float64)
            out[:, : self.zernike.shape[1]] += self._between(at)
        return out

    @cached_property
    def _between(self) -> RBFInterpolator:
        arrays = self.arrays
        return RBFInterpolator(
            np.stack([arrays["x"], arrays["y"]], axis=1).astype(np.float64),
            arrays["zernike"].astype(np.float64),
            neighbors=min(NEIGHBOURS, len(arrays["x"])),
            kernel="thin_plate_spline",
        )

    def state(self) -> dict[str, np.ndarray]:
        """Its arrays as part of a model's state."""
        return {PREFIX + name: array.astype(np.float64) for name, array in self.arrays.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> Self | None:
        """What `state` gave, found among a model's arrays; None where there is nothing."""
        own = {f.name: state[PREFIX + f.name] for f in fields(cls) if PREFIX + f.name in state}
        return cls(**own) if own else None


def fixed_arrays(sizes: tuple[int, int, int, int]) -> tuple[StateArray, ...]:
    """The arrays of a model's state that hold a fixed wavefront of these sizes."""
    n_poly, n_monomials, n_points, n_zernikes = sizes
    fixed = "of the fixed wavefront"
    declared: list[tuple[str, tuple[str, ...], tuple[int, ...], str, str]] = []
    if n_monomials:
        poly = (n_poly, n_monomials)
        declared += [
            ("coefficient", ("fixed_mode", "monomial"), poly, "um", f"polynomials {fixed} (Noll)"),
            ("x_range", ("fixed_bound",), (2,), "pixel", f"range of x of the polynomials {fixed}"),
            ("y_range", ("fixed_bound",), (2,), "pixel", f"range of y of the polynomials {fixed}"),
        ]
    if n_points:
        values = (n_points, n_zernikes)
        declared += [
            ("zernike", ("point", "point_mode"), values, "um", f"values {fixed} at points (Noll)"),
            ("x", ("point",), (n_points,), "pixel", f"x of the points {fixed}"),
            ("y", ("point",), (n_points,), "pixel", f"y of the points {fixed}"),
        ]
    return tuple(
        StateArray(
            name=PREFIX + name, dims=dims, shape=shape, dtype="float64", units=units, long_name=long
        )
        for name, dims, shape, units, long in declared
    )


def _unit(position: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    low, high = float(bounds[0]), float(bounds[1])
    return np.asarray(2 * (np.asarray(position, np.float64) - low) / (high - low) - 1)


def _degree(n_monomials: int) -> int:
    return int(((8 * n_monomials + 1) ** 0.5 - 3) / 2 + 1e-9)


def _n_monomials(coefficient: np.ndarray) -> int:
    """The whole number of monomials at or below that of the coefficients; -1 where none is."""
    degree = _degree(coefficient.shape[1]) if coefficient.shape[1] else -1
    return (degree + 1) * (degree + 2) // 2 or -1
