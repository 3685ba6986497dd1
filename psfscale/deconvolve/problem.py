r"""The smooth term of the cost: how far the blurred galaxies are from their images.

``f(x) = ½ ‖√w ⊙ (Hx − y)‖² + ½ λ ‖Vᵀ(√w ⊙ (Hx − y))‖²``, galaxy by galaxy.

======  ==========================================================  ===============
symbol  name                                                        unit
======  ==========================================================  ===============
y, x    observed and restored galaxies, over the noise              noise σ
w       inverse variance over its largest of the galaxy             1
H       convolution with the galaxy's PSF                           1
V       orthonormal span of Gaussian windows times second moments   1
λ       weight of the shape constraint, 0 without                   1
======  ==========================================================  ===============

The second part is the shape constraint: what the residual holds of total flux, centroid, size
and ellipticity, under windows of three widths, in units of its noise. Idea: Nammour, Schmitz,
Ngolè Mboula, Starck & Girard 2021 (SCORE), whose penalty compares such moments one by one;
departure: their joint covariance is taken in, which makes V orthonormal.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from psfscale.kernels.convolution import Convolution

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["DataTerm", "NoData", "moment_windows"]

WIDTHS = (1 / 16, 1 / 8, 1 / 4)
"""Gaussian σ of the windows [smaller side of the stamp]."""


def moment_windows(shape: tuple[int, int]) -> Float[Tensor, "window y x"]:
    """Orthonormal images that span the windowed moments up to second order, float64."""
    ny, nx = shape
    y = (torch.arange(ny, dtype=torch.float64) - ny // 2)[:, None].expand(ny, nx)
    x = (torch.arange(nx, dtype=torch.float64) - nx // 2).expand(ny, nx)
    one = torch.ones_like(y)
    moments = torch.stack([one, x, y, x**2 + y**2, x**2 - y**2, x * y])
    radius = x**2 + y**2
    sides = [width * min(shape) for width in WIDTHS]
    windowed = torch.cat([moments * torch.exp(-radius / (2 * s**2)) for s in sides])
    columns = windowed.flatten(1).T
    span: Tensor = torch.linalg.qr(columns / columns.norm(dim=0)).Q
    return span.T.reshape(-1, ny, nx)


def _total(values: Tensor) -> float:
    """Sum, added up in float64."""
    return float(values.sum(dtype=torch.float64))


def _weighted(values: Tensor, weight: Tensor | None) -> Tensor:
    return values if weight is None else weight * values


class DataTerm:
    """f of galaxies with known PSFs.

    Parameters
    ----------
    image : (object, y, x), y over its noise
    weight : (object, y, x) in [0, 1], or None where all are 1
    blur : H
    lambda_shape : λ
    """

    def __init__(
        self,
        image: Float[Tensor, "object y x"],
        *,
        weight: Float[Tensor, "object y x"] | None,
        blur: Convolution,
        lambda_shape: float = 0.0,
    ) -> None:
        self.image, self.weight, self.blur = image, weight, blur
        self.lambda_shape = lambda_shape
        self._windows = moment_windows(blur.shape).to(image).flatten(1) if lambda_shape else None
        self._right: Tensor | None = None
        self._energy = 0.0
        self._at: Tensor | None = None
        self._normal = image

    def pulled(self) -> Float[Tensor, "object y x"]:
        """``Hᵀ(w ⊙ y)``; transforms that this takes are not kept."""
        return replace(self.blur).adjoint(_weighted(self.image, self.weight))

    @property
    def lipschitz(self) -> float:
        """β of the gradient."""
        return float(self.blur.norm()) ** 2 * (1 + self.lambda_shape)

    def residual(self, x: Float[Tensor, "object y x"]) -> Float[Tensor, "object y x"]:
        """``√w ⊙ (Hx − y)`` [noise σ]."""
        misfit = self.blur.forward(x).sub_(self.image)
        return misfit if self.weight is None else misfit.mul_(self.weight.sqrt())

    def gradient(self, x: Float[Tensor, "object y x"]) -> Float[Tensor, "object y x"]:
        """∇f."""
        if self._windows is None:
            if self._right is None:
                self._right = self.pulled()
                self._energy = 0.5 * _total(_weighted(self.image, self.weight) * self.image)
            slope = self._normal_at(x) - self._right
            self._at = None  # x may be overwritten from now on
            return slope
        residual = self.residual(x)
        residual = residual + self.lambda_shape * self._moments_of(residual)
        weighted = residual if self.weight is None else self.weight.sqrt() * residual
        return self.blur.adjoint(weighted)

    def cost(self, x: Float[Tensor, "object y x"]) -> float:
        """F."""
        if self._right is not None:
            pulled = (0.5 * self._normal_at(x)).sub_(self._right)
            return self._energy + _total(pulled.mul_(x))
        residual = self.residual(x)
        value = 0.5 * _total(residual.square())
        if self._windows is None:
            return value
        moments = residual.flatten(1) @ self._windows.T
        return value + 0.5 * self.lambda_shape * _total(moments.square())

    def _normal_at(self, x: Tensor) -> Tensor:
        """``Hᵀ(w ⊙ Hx)``, once for the gradient and the cost at one x."""
        if self._at is not x:
            self._at, self._normal = None, self.image  # the last one's memory is free
            self._at, self._normal = x, self.blur.normal(x, self.weight)
        return self._normal

    def _moments_of(self, residual: Tensor) -> Tensor:
        """V Vᵀ residual."""
        windows = self._windows
        if windows is None:
            return torch.zeros_like(residual)
        return ((residual.flatten(1) @ windows.T) @ windows).reshape(residual.shape)


class NoData(DataTerm):
    """f = 0: the priors alone act on the start."""

    @property
    def lipschitz(self) -> float:
        """Steps as with data."""
        return 1.0

    def gradient(self, x: Float[Tensor, "object y x"]) -> Float[Tensor, "object y x"]:
        """Nothing pulls."""
        return torch.zeros_like(x)

    def cost(self, x: Float[Tensor, "object y x"]) -> float:  # noqa: ARG002
        """Nothing costs."""
        return 0.0
