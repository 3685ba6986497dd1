r"""The stars of a fit as functions of their wavefronts, with the derivatives a fit asks for.

======  =====================================================================  ====
symbol  name                                                                   unit
======  =====================================================================  ====
z       Zernike coefficients of a star's wavefront, ``z = C π(x, y) + e``      µm
C       coefficients of the field: (Zernike, function of position)             µm
π       functions of position                                                  1
e       the star's own tip and tilt, where its centre is not known             µm
======  =====================================================================  ====
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from psfscale.kernels.zernike import legendre_products, radial_order

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from psfscale.kernels.broadband import BroadbandPsf
    from psfscale.models.wavediff_optics import LightPath
    from psfscale.models.wavediff_stars import StarPixels

__all__ = ["NUISANCES", "Normal", "Nuisances", "Scene", "Wavefronts"]

TIP_TILT = (1, 2)
"""Indices of tip and tilt among the Zernikes."""


@dataclass(frozen=True, kw_only=True)
class Nuisances:
    """What is fitted of each star beside the wavefront field."""

    fluxes: bool
    background: bool
    centroids: bool


NUISANCES = Nuisances(fluxes=True, background=False, centroids=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class Wavefronts:
    """The parameters: a field of Zernikes, the stars' own tip and tilt, surfaces beyond.

    Attributes
    ----------
    zernike : (zernike, function) C [µm]; tip and tilt are 0 where the stars have their own
    tilt : (star, 2) e [µm]
    """

    zernike: Float[Tensor, "zernike function"]
    tilt: Float[Tensor, "star 2"]

    def at(self, functions: Float[Tensor, "star function"]) -> Float[Tensor, "star zernike"]:
        """Zernike coefficients of the stars [µm]."""
        z = functions @ self.zernike.T
        z[:, TIP_TILT[0] : TIP_TILT[1] + 1] += self.tilt
        return z

    def select(self, chosen: Tensor) -> Wavefronts:
        """The same field with some of the stars."""
        return replace(self, tilt=self.tilt[chosen])


@dataclass(frozen=True, kw_only=True, eq=False)
class Normal:
    """Gauss-Newton matrices of the stars, flux and background eliminated.

    Attributes
    ----------
    matrix : (star, zernike, zernike) [1/µm²]
    vector : (star, zernike) [1/µm], half the descent of χ²
    """

    matrix: Float[Tensor, "star zernike zernike"]
    vector: Float[Tensor, "star zernike"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """Stars seen by a camera.

    Attributes
    ----------
    pixels : of the stars
    functions : (star, function) π at the stars
    spectra : (star, node) weights of the camera's wavelengths
    camera, path : what draws, on which pupil
    modes : (zernike, y, x) on that pupil
    beyond : (star, y, x) wavefront beyond the Zernikes [µm], or None
    offset : (star, y, x) added to the camera's stamps: what a better camera sees, less this one
    """

    pixels: StarPixels
    functions: Float[Tensor, "star function"]
    spectra: Float[Tensor, "star node"]
    camera: BroadbandPsf
    path: LightPath
    modes: Float[Tensor, "zernike y x"]
    beyond: Float[Tensor, "star y x"] | None = None
    offset: Float[Tensor, "star y x"] | None = None

    def __len__(self) -> int:
        return len(self.functions)

    def opd(
        self, z: Float[Tensor, "star zernike"], part: slice = slice(None)
    ) -> Float[Tensor, "star y x"]:
        """Wavefronts [µm] of the stars in `part`, the first Zernikes given for all stars."""
        opd = torch.einsum("sj,jyx->syx", z[part], self.modes[: z.shape[1]])
        return opd if self.beyond is None else opd + self.beyond[part]

    def stamps(self, z: Float[Tensor, "star zernike"]) -> Float[Tensor, "star y x"]:
        """PSFs of the stars, in pieces that bound the memory of their wavefronts."""
        drawn = [self.camera.draw(self.opd(z, p), self.spectra[p]) for p in self._parts(64)]
        stamp = torch.cat(drawn)
        return stamp if self.offset is None else stamp + self.offset

    def pullback(
        self, z: Float[Tensor, "star zernike"], slope: Float[Tensor, "star y x"]
    ) -> Float[Tensor, "star zernike"]:
        """Derivative of ``Σ slope · stamp`` with respect to the Zernikes."""
        modes = self.modes[: z.shape[1]]
        pieces = []
        for p in self._parts(64):
            back = self.camera.pullback(self.opd(z, p), self.spectra[p], slope[p])
            pieces.append(torch.einsum("syx,jyx->sj", back, modes))
        return torch.cat(pieces)

    def _parts(self, n: int) -> list[slice]:
        return [slice(k, min(k + n, len(self))) for k in range(0, len(self), n)]

    def select(self, chosen: Tensor) -> Scene:
        """Some of the stars."""
        return replace(
            self,
            pixels=self.pixels.select(chosen),
            functions=self.functions[chosen],
            spectra=self.spectra[chosen],
            beyond=None if self.beyond is None else self.beyond[chosen],
            offset=None if self.offset is None else self.offset[chosen],
        )

    def normal(self, z: Float[Tensor, "star zernike"], nuisances: Nuisances) -> Normal:
        """The Gauss-Newton problem of each star, from the derivatives of all its pixels."""
        n = z.shape[1]
        products, turn = legendre_products(n)
        legendre = np.polynomial.legendre.legvander(self.path.axis, radial_order(n)).T
        polynomials = torch.from_numpy(legendre.copy()).to(self.modes)
        to_modes = torch.from_numpy(turn).to(self.modes)
        matrix = torch.empty((len(self), n, n), dtype=torch.float64, device=z.device)
        vector = torch.empty((len(self), n), dtype=torch.float64, device=z.device)
        for p in self.camera.batches(len(self), copies=radial_order(n) + 1):
            stamp, slopes = self.camera.jacobian(
                self.opd(z, p), self.spectra[p], products=products, polynomials=polynomials
            )
            stamp = stamp if self.offset is None else stamp + self.offset[p]
            design = torch.einsum("jp,psn->sjn", to_modes, slopes.flatten(2))
            matrix[p], vector[p] = self._project(stamp, design, p, nuisances)
        return Normal(matrix=matrix, vector=vector)

    def _project(
        self, stamp: Tensor, design: Tensor, part: slice, nuisances: Nuisances
    ) -> tuple[Tensor, Tensor]:
        """Normal matrix and vector, what flux and background explain taken out."""
        pixels = self.pixels.select(torch.arange(len(self), device=stamp.device)[part])
        light = pixels.light(stamp, fluxes=nuisances.fluxes, background=nuisances.background)
        root = pixels.weight.flatten(1).sqrt()
        residual = root * (pixels.image - light.of(stamp)).flatten(1)
        design = design * (light.flux[:, None] * root)[:, None]
        columns = []
        if nuisances.fluxes:
            columns.append(stamp.flatten(1) * root)
        if nuisances.background:
            columns.append(root)
        if columns:
            basis = torch.linalg.qr(torch.stack(columns, dim=2)).Q
            design = design - (design @ basis) @ basis.mT
        return (design @ design.mT).double(), (design @ residual[..., None])[..., 0].double()
