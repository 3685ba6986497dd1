r"""Zernike polynomials in Noll's order, and projections on them.

Noll 1976, J. Opt. Soc. Am. 66, 207: ``Z_j`` with j = 1 the piston, 2 and 3 tip and tilt along
x and y; each has unit rms over the full unit disc. They are evaluated as polynomials, so also
outside the disc: what lies there is for the pupil to block.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from psfscale.errors import InputError

__all__ = ["legendre_products", "noll_index", "project", "radial_order", "zernikes"]

_EXACT = 1e-9
"""Relative residual below which a change of polynomial basis counts as exact."""


def noll_index(j: int) -> tuple[int, int]:
    """(n, m) of Noll's j-th polynomial, from 1; m < 0 marks the sines.

    Raises
    ------
    InputError
        `j` is below 1.
    """
    if j < 1:
        msg = f"Noll's index counts from 1, got {j}"
        raise InputError(msg)
    n = (math.isqrt(8 * j - 7) - 1) // 2
    k = j - n * (n + 1) // 2 - 1
    m = 2 * ((k + 1) // 2) if n % 2 == 0 else 2 * (k // 2) + 1
    return n, m if j % 2 == 0 else -m


def radial_order(n_modes: int) -> int:
    """Largest radial order n among the first `n_modes`."""
    return noll_index(n_modes)[0]


def _radial(n: int, m: int, r: np.ndarray) -> np.ndarray:
    terms = [
        (-1) ** k
        * math.factorial(n - k)
        / (math.factorial(k) * math.factorial((n + m) // 2 - k) * math.factorial((n - m) // 2 - k))
        * r ** (n - 2 * k)
        for k in range((n - m) // 2 + 1)
    ]
    return np.asarray(sum(terms))


def zernikes(
    n_modes: int, x: Float[np.ndarray, ...], y: Float[np.ndarray, ...]
) -> Float[np.ndarray, "mode ..."]:
    """The first `n_modes` polynomials at (x, y) in units of the disc's radius."""
    r, angle = np.hypot(x, y), np.arctan2(y, x)
    modes = []
    for j in range(1, n_modes + 1):
        n, m = noll_index(j)
        wave = np.cos(m * angle) if m >= 0 else np.sin(-m * angle)
        norm = math.sqrt((n + 1) * (1 if m == 0 else 2))
        modes.append(norm * _radial(n, abs(m), r) * wave)
    return np.stack(modes)


def legendre_products(
    n_modes: int,
) -> tuple[list[tuple[int, int]], Float[np.ndarray, "mode product"]]:
    """The first `n_modes` Zernikes as sums of products ``P_a(x) P_b(y)`` of Legendre polynomials.

    The sums are exact: a Zernike of order n is a polynomial of degree n in x and y.

    Returns
    -------
    (a, b) of each product, by total degree; and its weight in each mode
    """
    order = radial_order(n_modes)
    degrees = [(t - b, b) for t in range(order + 1) for b in range(t + 1)]
    side = np.cos(np.pi * (np.arange(order + 3) + 0.5) / (order + 3))
    x, y = (grid.ravel() for grid in np.meshgrid(side, side))
    px, py = (np.polynomial.legendre.legvander(u, order) for u in (x, y))
    design = np.stack([px[:, a] * py[:, b] for a, b in degrees], axis=1)
    weight = np.linalg.lstsq(design, zernikes(n_modes, x, y).T, rcond=None)[0].T
    weight[np.abs(weight) < _EXACT] = 0
    return degrees, weight


def project(
    surface: Float[Tensor, "*batch y x"],
    modes: Float[Tensor, "mode y x"],
    *,
    amplitude: Float[Tensor, "y x"],
) -> Float[Tensor, "*batch mode"]:
    """Coefficients of the modes in a surface, by least squares over what the pupil lets through.

    On an obscured pupil Zernikes are not orthogonal; here the modes are fitted together, each
    point weighing by its amplitude squared.
    """
    weight = amplitude.flatten() ** 2
    m = modes.flatten(1)
    gram = (m * weight) @ m.T
    moments = surface.flatten(-2) @ (m * weight).T
    projected: Tensor = moments @ torch.linalg.inv(gram)
    return projected
