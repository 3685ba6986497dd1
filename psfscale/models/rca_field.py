r"""The field's side of RCA: eigen-PSFs from the stars' residuals, under priors from the data.

The field is ``Σ_k b_k(position) s_k``. Its functions b are kept orthonormal in the noise
metric of the stars, so that each image s_k is seen with white noise of unit variance per
coefficient, and rotated so that the images are orthogonal: the first carries the most
signal-to-noise, the last nothing.

======  ==================================================  ==============================
symbol  name                                                unit
======  ==================================================  ==============================
s_k     image of component k (its coefficients c_k)         noise σ of one fine pixel
b_k     function of component k at the stars                1 / (flux · noise σ)
R       (function, component), from position polynomials    as b
v_k     prior variance of s_k, a function of radius         noise variance
======  ==================================================  ==============================
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from psfscale.errors import FitError
from psfscale.kernels.solvers import conjugate_gradient

if TYPE_CHECKING:
    from jaxtyping import Complex, Float
    from torch import Tensor

    from psfscale.kernels.sampling import AliasGram
    from psfscale.kernels.spectral import FrequencyGrid

__all__ = ["Field", "RadialVariance", "rotated", "seen_images", "solve_ridge", "whitened"]

SMALLEST_VARIANCE = 1e-3
"""Prior variance, in units of the noise, below which a pixel of a component is empty."""

RADIAL_STEP = 0.5
"""Spacing of the radial profiles [CCD pixel]; smoothed over twice as much."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """A PSF field on a grid of frequencies.

    Attributes
    ----------
    coefficients : (component, frequency), images centred on pixel (0, 0)
    mixing : (function, component) float64, from the position functions to the components'
    basis : (star, component), values at the stars
    """

    coefficients: Complex[Tensor, "component frequency"]
    mixing: Float[Tensor, "function component"]
    basis: Float[Tensor, "star component"]

    def at_stars(self) -> Complex[Tensor, "star frequency"]:
        """Coefficients of the PSF of each star, before shift and flux."""
        return self.basis.to(self.coefficients.dtype) @ self.coefficients


def whitened(
    field: Field, functions: Float[Tensor, "star function"], importance: Float[Tensor, " star"]
) -> Field:
    """The same field on functions orthonormal under the stars' importance f²·w/D².

    Raises
    ------
    FitError
        The stars do not tell the functions apart.
    """
    basis = functions @ field.mixing
    gram = basis.T @ (importance.double()[:, None] * basis)
    factor, info = torch.linalg.cholesky_ex(gram)
    if int(info) != 0:
        msg = "the stars' positions do not determine the field: lower the degree or add stars"
        raise FitError(msg)
    mixing = torch.linalg.solve_triangular(factor.T, field.mixing, upper=True, left=False)
    dtype = field.coefficients.dtype
    return Field(
        coefficients=(factor.T.to(torch.complex128) @ field.coefficients.to(torch.complex128)).to(
            dtype
        ),
        mixing=mixing,
        basis=(functions @ mixing).to(field.basis.dtype),
    )


def rotated(field: Field, grid: FrequencyGrid, *, keep: int, smallest: float) -> Field:
    """The same field with orthogonal images, strongest first.

    At most `keep` components stay, and those after the first only if their norm exceeds
    `smallest` (in noise σ).
    """
    c = field.coefficients
    weight = grid.multiplicity.sqrt().to(c.real.dtype)
    real = torch.view_as_real(c * weight).flatten(1)
    u, norms, _ = torch.linalg.svd(real, full_matrices=False)
    rank = max(1, min(keep, int((norms > smallest).sum())))
    u = u[:, :rank]
    return Field(
        coefficients=u.T.to(c.dtype) @ c,
        mixing=field.mixing @ u.double(),
        basis=field.basis @ u,
    )


class RadialVariance:
    """Prior variance of each component as a smooth function of the distance from the centre.

    Parameters
    ----------
    grid : frequencies of the images
    dtype : of the images
    """

    def __init__(self, grid: FrequencyGrid, *, dtype: torch.dtype) -> None:
        ny, nx = grid.fine_shape
        y, x = (torch.fft.fftfreq(n, 1 / n, dtype=dtype) / grid.upsampling for n in (ny, nx))
        radius = torch.sqrt(y[:, None] ** 2 + x[None, :] ** 2).flatten() / RADIAL_STEP
        self._inner = radius.long()
        self._part = radius - self._inner
        self._n = int(self._inner.max()) + 2
        self._noise = grid.fraction
        steps = torch.arange(-6, 7, dtype=dtype)
        self._smoothing = torch.exp(-(steps**2) / 8)[None, None]

    def _collect(self, values: Float[Tensor, "component pixel"]) -> Float[Tensor, "component bin"]:
        out = values.new_zeros((len(values), self._n))
        out.index_add_(1, self._inner, values * (1 - self._part))
        out.index_add_(1, self._inner + 1, values * self._part)
        return torch.nn.functional.conv1d(out[:, None], self._smoothing, padding=6)[:, 0]

    def __call__(self, seen: Float[Tensor, "component y x"]) -> Float[Tensor, "component y x"]:
        """The variance behind noisy images: radial mean square less the noise's share."""
        square = (seen**2).flatten(1)
        mean = self._collect(square) / self._collect(torch.ones_like(square[:1]))
        excess = (mean - self._noise).clamp(min=SMALLEST_VARIANCE * self._noise)
        spread = excess[:, self._inner] * (1 - self._part) + excess[:, self._inner + 1] * self._part
        return spread.reshape(seen.shape)


def seen_images(
    field: Field,
    grid: FrequencyGrid,
    gram: AliasGram,
    right: Complex[Tensor, "component frequency"],
) -> Float[Tensor, "component y x"]:
    """Images with their noise: the field plus what the data still pull it by."""
    c = field.coefficients
    return grid.image(c + right - gram.forward(c))


def solve_ridge(
    field: Field,
    *,
    grid: FrequencyGrid,
    gram: AliasGram,
    right: Complex[Tensor, "component frequency"],
    variance: Float[Tensor, "component y x"],
    max_iterations: int,
) -> Field:
    """The field of highest posterior density under independent pixels of given variance.

    Solves ``(G + V⁻¹) c = right`` by conjugate gradient, preconditioned by the diagonal
    ``(1 + V⁻¹)⁻¹``: exact up to the coupling of aliases.
    """
    precision = 1 / variance
    damping = 1 / (1 + precision)
    solution, _ = conjugate_gradient(
        lambda c: gram.forward(c) + grid.coefficients(precision * grid.image(c)),
        right,
        start=field.coefficients,
        precondition=lambda c: grid.coefficients(damping * grid.image(c)),
        inner=grid.inner,
        tolerance=1e-3,
        max_iterations=max_iterations,
    )
    return replace(field, coefficients=solution)
