r"""What an elliptical profile leaves over: clumps, strewn where the galaxy shines.

======  ==================================================  ==================
symbol  name                                                unit
======  ==================================================  ==================
V       variance of clumps for τ = 1: flux × brightness     flux²
τ²      clumpiness of a galaxy                              1
A       from the clumps to the whitened stamp: √w H T       1/flux
B       A V Aᵀ, covariance in the stamp for τ = 1           1
======  ==================================================  ==================

Clumps of a random number at random places have a variance in proportion to the light they make
up: r is Gaussian with variance τ²V, blurred by a beam T that the pixel grid can hold. τ² is read
from each galaxy: under white noise alone the score ``Q = |A ᵀ residual|²_V`` has the mean tr B and
the variance 2 tr B²; clumps raise it by τ² tr B². Galaxies without significant clumps get none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from psfscale.deconvolve.learnt.conjugate import conjugate_gradients

if TYPE_CHECKING:
    from jaxtyping import Complex, Float
    from torch import Tensor

    from psfscale.deconvolve.learnt.fourier import Canvas

__all__ = [
    "ClumpField",
    "clump_variance",
    "half_plane_shares",
    "variance_left",
]

SPREAD = 2.0
"""The light that clumps follow is the profile's, blurred by this Gaussian [pixel]."""
SOLVER_TOLERANCE = 0.02
"""Residual of the solver, per pixel [noise σ]."""
MAX_ITERATIONS = 150
FAINT = 0.02
"""Share of the blurred profile's peak below which light beside the galaxy is not its own."""
LEAST_SEEN = 0.1
"""Places that the stamp shows worse than this, against its best, are not searched."""
SHARPENINGS = 2
KEPT = 0.3
"""Share of the broad variance that stays where no clump was found."""
CLUMP_SPREAD = 0.5
"""How far a clump's variance reaches round it [pixel]."""


def clump_variance(
    profile: Complex[Tensor, "object fy fx"], flux: Float[Tensor, " object"], canvas: Canvas
) -> Float[Tensor, "object y x"]:
    """V over the whole sky, from the spectra of the profiles in the stamp's frame."""
    light = canvas.sky(profile * canvas.gaussian(SPREAD))
    return light.clamp(min=0) * flux[:, None, None]


@dataclass(frozen=True, kw_only=True, eq=False)
class ClumpField:
    """Clumps of some galaxies, and how they are seen.

    Attributes
    ----------
    canvas : frequencies and stamps
    transfer : (object, fy, fx) H T
    root_weight : (object, y, x) √w
    variance : (object, y, x) V over the sky
    """

    canvas: Canvas
    transfer: Complex[Tensor, "object fy fx"]
    root_weight: Float[Tensor, "object y x"]
    variance: Float[Tensor, "object y x"]

    def select(self, chosen: Tensor) -> ClumpField:
        """The galaxies picked by indices."""
        return ClumpField(
            canvas=self.canvas,
            transfer=self.transfer[chosen],
            root_weight=self.root_weight[chosen],
            variance=self.variance[chosen],
        )

    def forward(self, sky: Float[Tensor, "object y x"]) -> Float[Tensor, "object y x"]:
        """A: whitened stamps of a sky."""
        return self.root_weight * self.canvas.observe(self.canvas.spectra(sky) * self.transfer)

    def adjoint(self, stamps: Float[Tensor, "object y x"]) -> Float[Tensor, "object y x"]:
        """Aᵀ."""
        spectra = self.canvas.adjoint(self.root_weight * stamps)
        return self.canvas.sky(spectra * self.transfer.conj())

    @cached_property
    def _squared_psf(self) -> Complex[Tensor, "object fy fx"]:
        """Spectra of the squares of H T's images."""
        return self.canvas.spectra(self.canvas.sky(self.transfer) ** 2)

    @cached_property
    def seen(self) -> Float[Tensor, "object y x"]:
        """Squared norms of the columns of A."""
        weight = self.canvas.adjoint(self.root_weight**2)
        return self.canvas.sky(weight * self._squared_psf.conj())

    @cached_property
    def trace(self) -> Float[Tensor, " object"]:
        """Trace of B: the mean of the noise's own score."""
        return (self.variance * self.seen).sum((1, 2))

    @cached_property
    def squared_trace(self) -> Float[Tensor, " object"]:
        """Trace of B², every pixel weighing as the mean pixel under the galaxy."""
        power = self.canvas.sky(self.transfer.abs() ** 2 + 0j)
        overlap = self.canvas.spectra(power**2)
        pairs = self.canvas.sky(self.canvas.spectra(self.variance) * overlap)
        norm = self.variance.sum((1, 2)) * self._squared_psf[:, 0, 0].real
        weight = self.canvas.oversampling**2 * self.trace / norm
        density = self.canvas.oversampling**-4
        return weight**2 * density * (self.variance * pairs).sum((1, 2))

    def clumpiness(
        self, residual: Float[Tensor, "object y x"]
    ) -> tuple[Float[Tensor, " object"], Float[Tensor, " object"]]:
        """τ² of whitened residuals, not below 0, and by how many σ it stands out of the noise."""
        score = (self.variance * self.adjoint(residual) ** 2).sum((1, 2))
        excess = score - self.trace
        return (excess / self.squared_trace).clamp(min=0), excess / (2 * self.squared_trace).sqrt()

    def beside(
        self, residual: Float[Tensor, "object y x"], *, width: float
    ) -> Float[Tensor, " object"]:
        """Largest significance of a round Gaussian where the galaxy hardly shines [σ].

        Parameters
        ----------
        width : its σ [CCD pixel]
        """
        blurred = replace(self, transfer=self.transfer * self.canvas.gaussian(width))
        ny, nx = self.canvas.fine_shape
        seen = blurred.seen[:, :ny, :nx]
        light = self.variance[:, :ny, :nx]
        dark = light < FAINT * light.amax((1, 2), keepdim=True)
        usable = dark & (seen > LEAST_SEEN * seen.amax((1, 2), keepdim=True))
        matched = blurred.adjoint(residual)[:, :ny, :nx] / seen.clamp(min=1e-30).sqrt()
        return torch.where(usable, matched, 0.0).amax((1, 2))

    def doubt(self, tau2: Float[Tensor, " object"]) -> Float[Tensor, "object y x"]:
        """Factor on √w of a fit that takes the clumps for noise, their correlation counted in."""
        own = self.canvas.observe(self.canvas.spectra(self.variance) * self._squared_psf)
        own = own.clamp(min=0) * self.root_weight**2
        correlated = self.squared_trace / (own**2).sum((1, 2)).clamp(min=1e-30)
        return (1 + (tau2 * correlated)[:, None, None] * own).rsqrt()

    def restored(
        self, residual: Float[Tensor, "object y x"], tau2: Float[Tensor, " object"]
    ) -> tuple[Float[Tensor, "object y x"], Float[Tensor, "object y x"]]:
        """Clumps before the beam, over the sky, and their variance, sharpened where they stand.

        Each pass replaces most of the variance by what the last one found there: a field of
        clumps is empty in most places.
        """
        if residual.dtype != torch.float64:
            clumps, variance = self.precise.restored(residual.double(), tau2.double())
            return clumps.to(residual), variance.to(residual)
        broad = variance = self.variance * tau2[:, None, None]
        dual = self._dual(residual, variance, start=torch.zeros_like(residual))
        for _ in range(SHARPENINGS):
            clumps = variance * self.adjoint(dual)
            found = self.canvas.spectra(clumps**2) * self.canvas.gaussian(CLUMP_SPREAD)
            variance = KEPT * broad + self.canvas.sky(found).clamp(min=0)
            dual = self._dual(residual, variance, start=dual)
        return variance * self.adjoint(dual), variance

    @property
    def precise(self) -> ClumpField:
        """The same in float64.

        Rounding in float32 leads conjugate gradients of bright galaxies astray: they take half as
        many steps more, and where they end hangs on the galaxies beside.
        """
        return ClumpField(
            canvas=replace(self.canvas, dtype=torch.float64),
            transfer=self.transfer.to(torch.complex128),
            root_weight=self.root_weight.double(),
            variance=self.variance.double(),
        )

    def _dual(
        self, residual: Tensor, variance: Tensor, *, start: Tensor
    ) -> Float[Tensor, "object y x"]:
        """The u that solves ``(1 + A V Aᵀ) u = residual``; the posterior mean is V Aᵀu.

        Conjugate gradients; each galaxy stops by itself.
        """

        def normal(v: Tensor) -> Tensor:
            return v + self.forward(variance * self.adjoint(v))

        enough = SOLVER_TOLERANCE**2 * residual[0].numel()
        return conjugate_gradients(
            normal, residual, start=start, enough=enough, at_most=MAX_ITERATIONS
        )

    def uncertainty(
        self, variance: Float[Tensor, "object y x"], beam: Float[Tensor, "fy fx"]
    ) -> Float[Tensor, "object y x"]:
        """Posterior variance of the clumps through a beam, V taken for constant round a pixel."""
        m = self.canvas.oversampling
        power = self.transfer.abs() ** 2
        norm = self._squared_psf[:, :1, :1].real
        weight = (self.seen / norm).clamp(min=0) * m**2
        level = variance * weight / m**2
        shares = beam.abs() ** 2 * half_plane_shares(self.canvas.padded, like=power)
        return variance_left(variance, level, power, shares)


def half_plane_shares(sides: tuple[int, int], *, like: Tensor) -> Float[Tensor, "1 fx"]:
    """Share of each frequency of the half plane in a mean over the plane."""
    ny, nx = sides
    twice = like.new_full((1, nx // 2 + 1), 2.0)
    twice[:, 0] = 1
    if nx % 2 == 0:
        twice[:, -1] = 1
    return twice / (ny * nx)


def variance_left(
    variance: Float[Tensor, "object y x"],
    level: Float[Tensor, "object y x"],
    power: Float[Tensor, "object fy fx"],
    shares: Float[Tensor, "fy fx"],
) -> Float[Tensor, "object y x"]:
    """``variance · Σ_f shares / (1 + level · power)`` at each pixel, between nodes of the level."""
    nodes = torch.logspace(-3, 6, 19, dtype=power.dtype, device=power.device)
    left = torch.stack([(shares / (1 + s * power)).sum((1, 2)) for s in nodes], 1)
    where = torch.log10(level.clamp(min=1e-3, max=0.99e6)) * 2 + 6
    low = where.long()
    flat = low.flatten(1)
    below = left.gather(1, flat).reshape(low.shape)
    above = left.gather(1, flat + 1).reshape(low.shape)
    return variance * torch.lerp(below, above, where - low)
