r"""From PSF coefficients to star stamps: sub-pixel shift, then sampling on the CCD's pixels.

The model of star i is ``f_i · sample(shift(Σ_k b_ik s_k, d_i))``; the PSF is the *effective*
one, pixel response included, so that sampling is all a CCD does. Shift and sampling are one
phase and one folding of frequencies.

======  ==============================================  ==============================
symbol  name                                            unit
======  ==============================================  ==============================
s_k     coefficients of the PSF field's k-th image      1
b_ik    k-th function of the field at star i            1
f_i     flux                                            electron
d_i     (dy, dx), the star from pixel (0, 0)            CCD pixel
w_i     inverse variance of a pixel of star i           1/electron²
D²      fine pixels per CCD pixel, by area              1
======  ==============================================  ==============================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from psfscale.kernels.spectral import complex_dtype

if TYPE_CHECKING:
    from jaxtyping import Complex, Float
    from torch import Tensor

    from psfscale.kernels.spectral import FrequencyGrid

__all__ = ["AliasGram", "StarSampling"]


@dataclass(frozen=True, kw_only=True, eq=False)
class StarSampling:
    """The linear map from the images of a PSF field to the stamps of its stars.

    Attributes
    ----------
    grid : the field's frequencies
    basis : (star, component), values of the field's functions, times flux
    dy, dx : (star,) [CCD pixel], the stars' centres from pixel (0, 0)
    """

    grid: FrequencyGrid
    basis: Float[Tensor, "star component"]
    dy: Float[Tensor, " star"]
    dx: Float[Tensor, " star"]

    def forward(self, x: Complex[Tensor, "component frequency"]) -> Float[Tensor, "star y x"]:
        """Stamps of the stars."""
        phases = self.grid.phases(self.dy, self.dx)
        return self.grid.sample((self.basis.to(x.dtype) @ x) * phases)

    def adjoint(self, y: Float[Tensor, "star y x"]) -> Complex[Tensor, "component frequency"]:
        """Coefficients from stamps."""
        phases = self.grid.phases(self.dy, self.dx)
        spectra = self.grid.sample_adjoint(y) * phases.conj()
        return self.basis.to(spectra.dtype).T @ spectra

    def norm(self) -> float:
        """Bound: sampling folds at most `most_aliases` frequencies, each with gain 1/D."""
        gain = math.sqrt(self.grid.most_aliases / self.grid.pixel_ratio)
        return gain * float(torch.linalg.matrix_norm(self.basis, ord=2))


class AliasGram:
    r"""The normal operator of stars whose pixels all weigh the same within a stamp.

    ``out[k] = Σ_m T_m s[k − m·n]``, a K×K matrix for each whole difference m between
    frequencies that alias on the CCD's pixels, ``T_m = D⁻² Σ_i w_i b_i b_iᵀ e^{−2πi m·d_i}``:
    its cost does not depend on the number of stars.

    Parameters
    ----------
    grid : the field's frequencies
    basis : (star, component), times flux
    weight : (star,) inverse variance of a star's pixels
    dy, dx : (star,) [CCD pixel]
    """

    def __init__(
        self,
        grid: FrequencyGrid,
        basis: Float[Tensor, "star component"],
        *,
        weight: Float[Tensor, " star"],
        dy: Float[Tensor, " star"],
        dx: Float[Tensor, " star"],
    ) -> None:
        self._grid = grid
        b = basis.to(complex_dtype(basis.dtype))
        self._coupling = {}
        for my, mx in grid.aliases:
            angle = 2 * math.pi * (my * dy + mx * dx)
            factor = torch.polar(weight / grid.pixel_ratio, angle)
            self._coupling[my, mx] = (b * factor[:, None]).T @ b

    def forward(
        self, x: Complex[Tensor, "component frequency"]
    ) -> Complex[Tensor, "component frequency"]:
        """The normal operator applied to coefficients."""
        out = torch.zeros_like(x)
        for shift, (here, source, conjugate) in self._grid.aliases.items():
            values = x[:, source.to(x.device)]
            values = torch.where(conjugate.to(x.device), values.conj(), values)
            out[:, here.to(x.device)] += self._coupling[shift] @ values
        return out

    def adjoint(
        self, y: Complex[Tensor, "component frequency"]
    ) -> Complex[Tensor, "component frequency"]:
        """The same: the operator is self-adjoint."""
        return self.forward(y)

    def norm(self) -> float:
        """Bound of the largest eigenvalue."""
        norms = {m: float(torch.linalg.matrix_norm(t, ord=2)) for m, t in self._coupling.items()}
        return min(sum(norms.values()), self._grid.most_aliases * norms[0, 0])
