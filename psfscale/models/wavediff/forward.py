r"""The stars of a fit as functions of their wavefronts, with the derivatives a fit asks for.

======  =====================================================================  ====
symbol  name                                                                   unit
======  =====================================================================  ====
z       Zernike coefficients of a star's wavefront, ``z = C π(x, y) + e``      µm
C       coefficients of the field: (Zernike, function of position)             µm
π       functions of position                                                  1
e       the star's own tip, tilt and defocus, where they are not known          µm
======  =====================================================================  ====
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from psfscale.kernels.optics.zernike import legendre_products, radial_order
from psfscale.models.wavediff.blur import SHARP, Blur
from psfscale.models.wavediff.surface import cosines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor

    from psfscale.kernels.optics.broadband import BroadbandPsf
    from psfscale.models.wavediff.optics import LightPath
    from psfscale.models.wavediff.stars import WeightedStars
    from psfscale.models.wavediff.surface import SurfaceBasis, Wave

__all__ = ["DEFOCUS", "TIP_TILT", "Normal", "Nuisances", "Scene", "Wavefronts"]

TIP_TILT = (1, 2)
"""Indices of tip and tilt among the Zernikes."""
DEFOCUS = 3
"""The same of defocus."""
FEWEST, HELD_BATCHES = 64, 2
"""Stars whose wavefronts are held at once, at least, and in batches of the camera."""
BLUR_STEP = 0.01
"""Step in σ² [pixel²] of the derivative by the jitter."""


@dataclass(frozen=True, kw_only=True)
class Nuisances:
    """What is fitted of each star beside the wavefront field."""

    fluxes: bool
    background: bool
    centroids: bool
    jitter: bool
    stretch: bool = False
    defocus: bool = False

    @property
    def own(self) -> list[int]:
        """Indices of the Zernikes that each star has of its own, and the field does not."""
        return [*(TIP_TILT if self.centroids else ()), *((DEFOCUS,) if self.defocus else ())]


@dataclass(frozen=True, kw_only=True, eq=False)
class Wavefronts:
    """The parameters: a field of Zernikes, the stars' own tip and tilt, surfaces beyond.

    Attributes
    ----------
    zernike : (zernike, function) C [µm]; 0 for those that the stars have of their own
    tilt : (star, 2) e [µm], or (star, 3) with the stars' own defocus
    blur : by the jitter
    surface : (function, cosine, cosine) what lies beyond [µm], or None
    """

    zernike: Float[Tensor, "zernike function"]
    tilt: Float[Tensor, "star own"]
    blur: Blur = SHARP
    surface: Float[Tensor, "feature cosine cosine"] | None = None

    def at(self, functions: Float[Tensor, "star function"]) -> Float[Tensor, "star zernike"]:
        """Zernike coefficients of the stars [µm]."""
        z = functions @ self.zernike.T
        z[:, 1 : 1 + self.tilt.shape[1]] += self.tilt
        return z

    def select(self, chosen: Tensor) -> Wavefronts:
        """The same field with some of the stars."""
        return replace(self, tilt=self.tilt[chosen])


@dataclass(frozen=True, kw_only=True, eq=False)
class Normal:
    """Gauss-Newton matrices of the stars, flux and background eliminated.

    Attributes
    ----------
    matrix : (star, parameter, parameter) [1/µm²]; the Zernikes, then cosines where asked for, and
        last the blur where fitted: its two stretches, if they are, and its round part
    vector : (star, parameter) [1/µm], half the descent of χ²
    """

    matrix: Float[Tensor, "star parameter parameter"]
    vector: Float[Tensor, "star parameter"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """Stars seen by a camera.

    Attributes
    ----------
    pixels : of the stars
    functions : (star, function) π at the stars
    spectra : (star, node) weights of the camera's wavelengths
    camera, path : what draws, on which pupil
    modes : (zernike, y, x) on that pupil, at least those of the field and of `known`
    surfaces : the basis of what lies beyond the Zernikes, or None
    offset : (star, y, x) added to the camera's stamps: what a better camera sees, less this one
    blur : by the jitter, in the camera
    known : (star, zernike) [µm], what the stars' wavefronts have beside the field, or None
    """

    pixels: WeightedStars
    functions: Float[Tensor, "star function"]
    spectra: Float[Tensor, "star node"]
    camera: BroadbandPsf
    path: LightPath
    modes: Float[Tensor, "zernike y x"]
    surfaces: SurfaceBasis | None = None
    offset: Float[Tensor, "star y x"] | None = None
    blur: Blur = SHARP
    known: Float[Tensor, "star zernike"] | None = None

    def __len__(self) -> int:
        return len(self.functions)

    def with_blur(self, blur: Blur) -> Scene:
        """The same through a camera with this jitter."""
        old = self.camera
        size = old.response.shape[0]
        camera = self.path.camera(old.wavelengths, size, blur=blur)
        return replace(self, camera=camera, blur=blur)

    def opd(self, at: Wavefronts, part: slice = slice(None)) -> Float[Tensor, "star y x"]:
        """Wavefronts [µm] of the stars in `part`."""
        z = at.at(self.functions)
        opd = torch.einsum("sj,jyx->syx", z[part], self.modes[: z.shape[1]])
        if self.known is not None:
            known = self.known[part]
            opd = opd + torch.einsum("sj,jyx->syx", known, self.modes[: known.shape[1]])
        if self.surfaces is None or at.surface is None:
            return opd
        return opd + self.surfaces.opd(self.surfaces.maps(at.surface), part)

    def stamps(self, at: Wavefronts) -> Float[Tensor, "star y x"]:
        """PSFs of the stars, in pieces that bound the memory of their wavefronts."""
        if at.blur != self.blur:
            return self.with_blur(at.blur).stamps(at)
        drawn = [self.camera.draw(self.opd(at, p), self.spectra[p]) for p in self._parts()]
        stamp = torch.cat(drawn)
        return stamp if self.offset is None else stamp + self.offset

    def pullback(
        self, at: Wavefronts, slope: Float[Tensor, "star y x"]
    ) -> Float[Tensor, "star zernike"]:
        """Derivatives of ``Σ slope · stamp`` by the stars' Zernikes."""
        if at.blur != self.blur:
            return self.with_blur(at.blur).pullback(at, slope)
        modes = self.modes[: len(at.zernike)]
        pieces = []
        for p in self._parts():
            back = self.camera.pullback(self.opd(at, p), self.spectra[p], slope[p])
            pieces.append(torch.einsum("syx,jyx->sj", back, modes))
        return torch.cat(pieces)

    def aged(self, old: Normal, at: Wavefronts, nuisances: Nuisances) -> Normal:
        """Matrices of elsewhere with the descent of here: no derivative of each pixel is taken."""
        if at.blur != self.blur:
            return self.with_blur(at.blur).aged(old, at, nuisances)
        modes, wider = self.modes[: len(at.zernike)], self._wider(nuisances)
        vectors = []
        for p in self._parts():
            opd, spectra = self.opd(at, p), self.spectra[p]
            stamp = self.camera.draw(opd, spectra)
            seen = stamp if self.offset is None else stamp + self.offset[p]
            slope = _descent(self.pixels.part(p), seen, nuisances)
            back = self.camera.pullback(opd, spectra, slope)
            by_blur = _by_blur(stamp, [camera.draw(opd, spectra) for camera in wider])
            more = [(slope * s).sum((1, 2))[:, None] for s in by_blur]
            down = [torch.einsum("syx,jyx->sj", back, modes), *more]
            vectors.append(torch.cat(down, dim=1).double())
        return replace(old, vector=torch.cat(vectors))

    def _wider(self, nuisances: Nuisances) -> list[BroadbandPsf]:
        """Cameras of a little more blur: stretched two ways where that is fitted, and round."""
        if not nuisances.jitter:
            return []
        blurs = [wide := self.blur.moved([BLUR_STEP])]
        if nuisances.stretch:
            blurs = [wide.moved([BLUR_STEP, 0, 0]), wide.moved([0, BLUR_STEP, 0]), wide]
        return [self.with_blur(blur).camera for blur in blurs]

    def _parts(self) -> list[slice]:
        """Runs of stars whose wavefronts are held at once: a few of the camera's batches."""
        first = self.camera.batches(len(self))[0]
        n = max(FEWEST, HELD_BATCHES * (first.stop - first.start))
        return [slice(k, min(k + n, len(self))) for k in range(0, len(self), n)]

    def select(self, chosen: Tensor) -> Scene:
        """Some of the stars."""
        return replace(
            self,
            pixels=self.pixels.select(chosen),
            functions=self.functions[chosen],
            spectra=self.spectra[chosen],
            surfaces=None if self.surfaces is None else self.surfaces.select(chosen),
            offset=None if self.offset is None else self.offset[chosen],
            known=None if self.known is None else self.known[chosen],
        )

    def normal(self, at: Wavefronts, nuisances: Nuisances, waves: Sequence[Wave] = ()) -> Normal:
        """The Gauss-Newton problem of each star, from the derivatives of all its pixels."""
        if at.blur != self.blur:
            return self.with_blur(at.blur).normal(at, nuisances, waves)
        factors = self._factors(len(at.zernike), waves)
        wider = self._wider(nuisances)
        matrices, vectors = [], []
        for p in self.camera.batches(len(self), copies=len(factors.polynomials)):
            opd = self.opd(at, p)
            stamp, slopes = self.camera.jacobian(
                opd, self.spectra[p], products=factors.products, polynomials=factors.polynomials
            )
            design = factors.design(slopes.flatten(2))
            drawn = [camera.draw(opd, self.spectra[p]) for camera in wider]
            if by_blur := _by_blur(stamp, drawn):
                design = torch.cat([design, torch.stack(by_blur, dim=1).flatten(2)], dim=1)
            stamp = stamp if self.offset is None else stamp + self.offset[p]
            matrix, vector = _normal(self.pixels.part(p), stamp, design, nuisances)
            matrices.append(matrix)
            vectors.append(vector)
        return Normal(matrix=torch.cat(matrices), vector=torch.cat(vectors))

    def _factors(self, n: int, waves: Sequence[Wave]) -> _Factors:
        products, turn = legendre_products(n)
        axis = self.path.axis
        rows = [np.polynomial.legendre.legvander(axis, radial_order(n)).T]
        first = len(rows[0])
        if waves:
            rows.append(cosines(axis, 1 + max(max(wave) for wave in waves)).numpy())
        return _Factors(
            products=[*products, *((k + first, j + first) for k, j in waves)],
            polynomials=torch.from_numpy(np.concatenate(rows)).to(self.modes),
            turn=torch.from_numpy(turn).to(self.modes),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Factors:
    """Zernikes and cosines over the pupil as products of functions along its axes.

    Attributes
    ----------
    products : (along x, along y) of each product
    polynomials : (function, sample) along an axis: Legendre polynomials, cosines
    turn : (zernike, product) weights of the first products in the Zernikes; the rest are cosines
    """

    products: list[Wave]
    polynomials: Float[Tensor, "function sample"]
    turn: Float[Tensor, "zernike product"]

    def design(self, slopes: Float[Tensor, "product star pixel"]) -> Tensor:
        """(star, parameter, pixel) derivatives by Zernikes, then by cosines."""
        n = self.turn.shape[1]
        zernike = torch.einsum("jp,psn->sjn", self.turn, slopes[:n])
        return torch.cat([zernike, slopes[n:].transpose(0, 1)], dim=1)


def _by_blur(stamp: Tensor, wider: list[Tensor]) -> list[Tensor]:
    """Derivatives of the stamps by the blur, from those of the cameras of `Scene._wider`."""
    if not wider:
        return []
    round_ = wider[-1]
    return [*((w - round_) / BLUR_STEP for w in wider[:-1]), (round_ - stamp) / BLUR_STEP]


def _descent(pixels: WeightedStars, stamp: Tensor, nuisances: Nuisances) -> Tensor:
    """Half the descent of χ² by the stamps, flux and background eliminated."""
    light = pixels.light(stamp, fluxes=nuisances.fluxes, background=nuisances.background)
    return pixels.weight * (pixels.image - light.of(stamp)) * light.flux[:, None, None]


def _normal(
    pixels: WeightedStars, stamp: Tensor, design: Tensor, nuisances: Nuisances
) -> tuple[Tensor, Tensor]:
    """Normal matrix and vector, what flux and background explain taken out."""
    light = pixels.light(stamp, fluxes=nuisances.fluxes, background=nuisances.background)
    root = pixels.weight.flatten(1).sqrt()
    residual = root * (pixels.image - light.of(stamp)).flatten(1)
    design = design * (light.flux[:, None] * root)[:, None]
    columns = [stamp.flatten(1) * root] if nuisances.fluxes else []
    if nuisances.background:
        columns.append(root)
    if columns:
        basis = torch.linalg.qr(torch.stack(columns, dim=2)).Q
        design = design - (design @ basis) @ basis.mT
    return (design @ design.mT).double(), (design @ residual[..., None])[..., 0].double()
