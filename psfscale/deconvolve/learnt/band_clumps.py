r"""Clumps and the profile under them, solved for together on a band of frequencies.

======  ==================================================  ==================
symbol  name                                                unit
======  ==================================================  ==================
V       variance of clumps for τ = 1: flux × brightness     flux²
A       from clumps on the sky to what the band shows       1/flux
J       from the profile's parameters to the same           mixed
d       the parameters' step to the optimum without clumps  mixed
Σ       (JᵀJ + P)⁻¹, P the parameters' prior precision      mixed
F       Aᵀ J                                                mixed
G       AᵀA − F Σ Fᵀ: what is seen and no profile's         1/flux²
b       Aᵀ of what the profile leaves over after its step   1/flux
======  ==================================================  ==================

Clumps of variance τ²V have the posterior mean ``c = (1/(τ²V) + G)⁻¹ b``, and the parameters move by
``d − Σ Fᵀ c``. On a periodic sky AᵀA is a product of transforms. The galaxy is drawn as it was
solved for, to first order in the move: what low frequencies tell of flux and shape is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from psfscale.arrays import centre_index
from psfscale.deconvolve.learnt.clumps import (
    CLUMP_SPREAD,
    SHARPENINGS,
    SPREAD,
    half_plane_shares,
    variance_left,
)
from psfscale.deconvolve.learnt.conjugate import conjugate_gradients, squared

if TYPE_CHECKING:
    from jaxtyping import Complex, Float
    from torch import Tensor

    from psfscale.deconvolve.learnt.band import Band, BandSight
    from psfscale.deconvolve.learnt.fit import ProfileFitter

__all__ = ["Strewn", "StrewnField"]

TOLERANCE = 1e-6
"""Residual of the solver that is rounding, against the right-hand side."""
MAX_ITERATIONS = 15
"""Always as many, short of that: if a coarser residual stopped it, rounding would decide on one
iteration more, which shows by 3 % in some galaxies when a catalogue is cut into other blocks. From
15 to 40 errors are the same (88 knotted galaxies, S/N 5 and 20)."""
ROUGH = 6
"""The same where the clumps are only to show where the variance is to be."""
KEPT = 0.2
"""Share of the broad variance that stays where no clump was found: less is nearer to the truth in
the pixels, more in the shapes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Strewn:
    """What was found in some galaxies.

    Attributes
    ----------
    sky : (object, y, x) clumps before the beam, over a period of the sky
    variance : (object, y, x) of clumps that may be there beside those found
    move : (object, parameter) of the profile
    """

    sky: Float[Tensor, "object y x"]
    variance: Float[Tensor, "object y x"]
    move: Float[Tensor, "object parameter"]


@dataclass(frozen=True, kw_only=True, eq=False)
class StrewnField:
    """Clumps that some galaxies may have, and how they are seen.

    Attributes
    ----------
    band : frequencies
    sight : how the galaxies are seen
    columns : (object, parameter, 1, frequency) derivatives of the profiles before any beam
    rest : (object, value) what the profiles leave over after their step
    covariance : (object, parameter, parameter) Σ
    step : (object, parameter) d
    variance : (object, y, x) V over a period of the sky, the stamp's centre in its corner
    """

    band: Band
    sight: BandSight
    columns: Complex[Tensor, "object parameter 1 frequency"]
    rest: Float[Tensor, "object value"]
    covariance: Float[Tensor, "object parameter parameter"]
    step: Float[Tensor, "object parameter"]
    variance: Float[Tensor, "object y x"]

    @classmethod
    def of(
        cls,
        sight: BandSight,
        fitter: ProfileFitter,
        band: Band,
        z: Float[Tensor, "object parameter"],
    ) -> StrewnField:
        """Of galaxies whose profiles are near z; the fitter's canvas is the band."""
        columns = fitter.basis.columns(z, torch.ones_like(band.fy))
        seen = sight.seen(columns * sight.beam[:, None])
        rest = sight.data - seen[:, 0]
        covariance, step = (t.to(rest) for t in fitter.newton(z, seen, rest))
        light = band.plane(columns[:, 0] * band.gaussian(SPREAD))
        return cls(
            band=band,
            sight=sight,
            columns=columns,
            rest=rest - (step[:, None] @ seen)[:, 0],
            covariance=covariance,
            step=step,
            variance=light.clamp(min=0) * z[:, 0].exp().to(light)[:, None, None],
        )

    @cached_property
    def _response(self) -> Complex[Tensor, "object 1 frequency"]:
        """A, from the sky's transform to values."""
        return self.sight.beam * self.sight.scale

    @cached_property
    def _back(self) -> Complex[Tensor, "object 1 frequency"]:
        """Aᵀ, from values to the sky's transform."""
        return self._response.conj() / self.band.scale**2 * self.band.oversampling**2

    @cached_property
    def _power(self) -> Float[Tensor, "object ky kx"]:
        """AᵀA in the half plane."""
        return self.band.half_plane((self._back * self._response).real)

    @cached_property
    def _pull(self) -> Float[Tensor, "object y x"]:
        """The right-hand side b."""
        values = self.rest.reshape(*self._back.shape, 2).contiguous()
        return self.band.plane(self._back * torch.view_as_complex(values))

    @cached_property
    def _shown(self) -> Float[Tensor, "object parameter place"]:
        """Fᵀ."""
        n, p = self.columns.shape[:2]
        spectra = (self._back * self._response)[:, None] * self.columns
        return self.band.plane(spectra.flatten(0, 1)).reshape(n, p, -1)

    def _gram(self, sky: Tensor) -> Float[Tensor, "object y x"]:
        """G of a sky."""
        own: Tensor = torch.fft.irfft2(torch.fft.rfft2(sky) * self._power, s=sky.shape[-2:])
        seen: Tensor = self._along(sky) @ self.covariance @ self._shown
        return own - seen.reshape(sky.shape)

    def _along(self, sky: Tensor) -> Float[Tensor, "object 1 parameter"]:
        """Fᵀ of a sky; vector first, for which batched products are ten times faster."""
        along: Tensor = sky.flatten(1)[:, None] @ self._shown.mT
        return along

    def clumpiness(self) -> Float[Tensor, " object"]:
        """τ², not below 0, for which white noise and clumps give the score that is seen.

        The score ``Σ V b²`` has the mean ``tr VG + τ² tr (VG)²``.
        """
        variance, sides = self.variance, self.variance.shape[-2:]
        kernel = torch.fft.irfft2(self._power, s=sides)
        weighted = self._shown * variance.flatten(1)[:, None]
        own = weighted @ self._shown.mT
        turned = torch.fft.irfft2(
            torch.fft.rfft2(weighted.reshape(*own.shape[:2], *sides)) * self._power[:, None],
            s=sides,
        )
        crossed = weighted @ turned.flatten(2).mT
        noise = kernel[:, 0, 0] * variance.sum((1, 2)) - _trace(self.covariance @ own)
        excess = (variance * self._pull**2).sum((1, 2)) - noise
        pairs = torch.fft.rfft2(variance) * torch.fft.rfft2(kernel**2)
        squared = (variance * torch.fft.irfft2(pairs, s=sides)).sum((1, 2))
        squared = squared - 2 * _trace(self.covariance @ crossed)
        squared = squared + _trace(self.covariance @ own @ self.covariance @ own)
        level: Tensor = (excess / squared).clamp(min=0)
        return level

    def solved(self, tau2: Float[Tensor, " object"]) -> Strewn:
        """Clumps and the move of the profiles, the variance sharpened where clumps stand."""
        broad = variance = self.variance * tau2[:, None, None]
        sky = torch.zeros_like(broad)
        for _ in range(SHARPENINGS):
            sky = self._mean(variance, start=sky, at_most=ROUGH)
            variance = KEPT * broad + self._through(sky**2, CLUMP_SPREAD).clamp(min=0)
        sky = self._mean(variance, start=sky, at_most=MAX_ITERATIONS)
        move = self.step - (self._along(sky) @ self.covariance)[:, 0]
        doubt = broad + self._through(sky**2, CLUMP_SPREAD).clamp(min=0)
        return Strewn(sky=sky, variance=doubt, move=move)

    def _mean(
        self, variance: Tensor, *, start: Tensor, at_most: int
    ) -> Float[Tensor, "object y x"]:
        """Conjugate gradients on ``(1 + S G S) w = S b`` with S² = V; c = S w."""
        root = variance.sqrt()
        right = root * self._pull

        def normal(w: Tensor) -> Tensor:
            return w + root * self._gram(root * w)

        enough = TOLERANCE**2 * squared(right)
        begin = torch.where(root > 0, start / root, 0.0)
        return root * conjugate_gradients(
            normal, right, start=begin, enough=enough, at_most=at_most
        )

    def restored(self, found: Strewn, *, sigma: float) -> Float[Tensor, "object y x"]:
        """Stamps of the galaxies through a round Gaussian [CCD pixel].

        Of the clumps all frequencies are drawn: their places are known better than a band holds.
        """
        move = found.move[:, None].to(self.columns)
        profile = self.columns[:, 0] + (move @ self.columns[:, :, 0])
        smooth = self.band.image(profile * self.band.gaussian(sigma))
        return smooth + self._stamp(self._through(found.sky, sigma))

    def remains(self, found: Strewn) -> Float[Tensor, "object value"]:
        """What profiles and clumps leave over, over the noise."""
        spectra = torch.fft.rfft2(found.sky)
        clumps = torch.view_as_real(self.band.of_half_plane(spectra) * self._response).flatten(1)
        seen = self.sight.seen(self.columns * self.sight.beam[:, None])
        moved = ((found.move - self.step)[:, None] @ seen)[:, 0]
        return self.rest - clumps - moved

    def uncertainty(self, found: Strewn, *, sigma: float) -> Float[Tensor, "object y x"]:
        """Posterior variance of the clumps through a Gaussian, V taken for even round a pixel."""
        beam = self._gaussian(sigma) ** 2
        ny, nx = self.variance.shape[-2:]
        shares = beam * half_plane_shares((ny, nx), like=beam)
        return self._stamp(variance_left(found.variance, found.variance, self._power, shares))

    def _stamp(self, sky: Tensor) -> Float[Tensor, "object y x"]:
        ny, nx = (self.band.oversampling * n for n in self.band.shape)
        return sky.roll((centre_index(ny), centre_index(nx)), dims=(-2, -1))[:, :ny, :nx]

    def _through(self, sky: Tensor, sigma: float) -> Tensor:
        out: Tensor = torch.fft.irfft2(
            torch.fft.rfft2(sky) * self._gaussian(sigma), s=sky.shape[-2:]
        )
        return out

    def _gaussian(self, sigma: float) -> Float[Tensor, "ky kx"]:
        """Transfer function of a round Gaussian in the half plane [CCD pixel]."""
        m = self.band.oversampling
        ny, nx = self.variance.shape[-2:]
        fy = torch.fft.fftfreq(ny, device=self.variance.device, dtype=self.variance.dtype) * m
        fx = torch.fft.rfftfreq(nx, device=self.variance.device, dtype=self.variance.dtype) * m
        return torch.exp(-2 * torch.pi**2 * sigma**2 * (fy[:, None] ** 2 + fx**2))


def _trace(x: Tensor) -> Float[Tensor, " object"]:
    return x.diagonal(dim1=1, dim2=2).sum(1)
