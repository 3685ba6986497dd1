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
from functools import cached_property
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
    """The linear map from the images of PSF fields to the stamps of their stars.

    Attributes
    ----------
    grid : the fields' frequencies
    basis : (*ccd, star, component), values of the field's functions, times flux; 0 where a CCD
        has no more stars
    dy, dx : (*ccd, star) [CCD pixel], the stars' centres from pixel (0, 0)
    """

    grid: FrequencyGrid
    basis: Float[Tensor, "*ccd star component"]
    dy: Float[Tensor, "*ccd star"]
    dx: Float[Tensor, "*ccd star"]

    @cached_property
    def _phases(self) -> Complex[Tensor, "*ccd star frequency"]:
        return self.grid.phases(self.dy, self.dx)

    def forward(
        self, x: Complex[Tensor, "*ccd component frequency"]
    ) -> Float[Tensor, "*ccd star y x"]:
        """Stamps of the stars."""
        return self.grid.sample((self.basis.to(x.dtype) @ x) * self._phases)

    def adjoint(
        self, y: Float[Tensor, "*ccd star y x"]
    ) -> Complex[Tensor, "*ccd component frequency"]:
        """Coefficients from stamps."""
        spectra = self.grid.sample_adjoint(y) * self._phases.conj()
        return self.basis.to(spectra.dtype).mT @ spectra

    def norm(self) -> Float[Tensor, "*ccd"]:
        """Bound: sampling folds at most `most_aliases` frequencies, each with gain 1/D."""
        gain = math.sqrt(self.grid.most_aliases / self.grid.pixel_ratio)
        size: Tensor = torch.linalg.matrix_norm(self.basis, ord=2)
        return gain * size


class AliasGram:
    r"""The normal operator of stars whose pixels all weigh the same within a stamp.

    ``out[k] = Σ_m T_m s[k − m·n]``, a K×K matrix for each whole difference m between
    frequencies that alias on the CCD's pixels, ``T_m = D⁻² Σ_i w_i b_i b_iᵀ e^{−2πi m·d_i}``:
    its cost does not depend on the number of stars.

    Parameters
    ----------
    grid : the fields' frequencies
    basis : (*ccd, star, component), times flux
    weight : (*ccd, star) inverse variance of a star's pixels, 0 where there is no star
    dy, dx : (*ccd, star) [CCD pixel]
    """

    def __init__(
        self,
        grid: FrequencyGrid,
        basis: Float[Tensor, "*ccd star component"],
        *,
        weight: Float[Tensor, "*ccd star"],
        dy: Float[Tensor, "*ccd star"],
        dx: Float[Tensor, "*ccd star"],
    ) -> None:
        self._grid = grid
        b = basis.to(complex_dtype(basis.dtype))
        self._coupling = {}
        for my, mx in grid.aliases(basis.device):
            angle = 2 * math.pi * (my * dy + mx * dx)
            factor = torch.polar(weight / grid.pixel_ratio, angle)
            self._coupling[my, mx] = (b * factor[..., None]).mT @ b

    def forward(
        self, x: Complex[Tensor, "*ccd component frequency"]
    ) -> Complex[Tensor, "*ccd component frequency"]:
        """The normal operator applied to coefficients."""
        return self._coupling[0, 0] @ x + self.coupled(x)

    def coupled(
        self, x: Complex[Tensor, "*ccd component frequency"]
    ) -> Complex[Tensor, "*ccd component frequency"]:
        """The part of the normal operator between different frequencies.

        All of it but the identity where the functions are orthonormal under the stars' weights.
        """
        out = torch.zeros_like(x)
        whole = torch.cat([x, x.conj()], -1)
        for shift, (here, source) in self._grid.aliases(x.device).items():
            if shift != (0, 0):
                out.index_add_(-1, here, self._coupling[shift] @ whole.index_select(-1, source))
        return out

    def adjoint(
        self, y: Complex[Tensor, "*ccd component frequency"]
    ) -> Complex[Tensor, "*ccd component frequency"]:
        """The same: the operator is self-adjoint."""
        return self.forward(y)

    def norm(self) -> Float[Tensor, "*ccd"]:
        """Bound of the largest eigenvalue."""
        norms = {m: torch.linalg.matrix_norm(t, ord=2) for m, t in self._coupling.items()}
        size: Tensor = sum(norms.values(), torch.zeros_like(norms[0, 0]))
        return torch.minimum(size, self._grid.most_aliases * norms[0, 0])
