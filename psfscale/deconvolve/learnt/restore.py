"""Galaxies restored as elliptical profiles of a learnt population, and clumps on top."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

import torch

from psfscale.arrays import ObjectFlag
from psfscale.deconvolve.learnt.arrays import LearntArrays
from psfscale.deconvolve.learnt.band import WIDE, Band, BandSight
from psfscale.deconvolve.learnt.band_clumps import StrewnField
from psfscale.deconvolve.learnt.clumps import ClumpField, clump_variance
from psfscale.deconvolve.learnt.fit import ProfileFit, ProfileFitter, join_fits
from psfscale.deconvolve.learnt.fourier import Canvas
from psfscale.deconvolve.learnt.observation import Sight
from psfscale.deconvolve.learnt.settings import LearntSettings
from psfscale.deconvolve.stack import Restoration
from psfscale.kernels.user_tensors import array_fields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int
    from torch import Tensor

    from psfscale.deconvolve.learnt.prior import Prior
    from psfscale.deconvolve.stack import GalaxyStack

__all__ = ["LearntRestoration", "Look", "Restorer", "restore"]

BATCH = 16
"""Galaxies taken together: what a processor's caches hold."""
FAST_BATCH = 128
"""The same of galaxies by their low frequencies."""
SIGNIFICANT = 1.0
"""Excess of a galaxy's clump score over the noise's own [σ]; the fitted profile takes its part of
the noise's score, so that smooth galaxies lie near −1.4 ± 0.4."""
NEIGHBOUR = 6.0
"""Significance of light beside a galaxy that calls it blended [σ]; isolated smooth ones reach 4.2
(120 simulated, S/N 5 and 20), those with knots far out reach more."""
LEVELS_OF = 4
"""One galaxy in so many tells of the sky where low frequencies are fitted. It takes the pixels: low
frequencies do not tell the sky from what the profiles leave over."""
STANDS_OUT = 3.0
"""Excess of chi² over a band that calls a galaxy clumpy [σ]: on 400 simulated galaxies, 98
knotted, 89 % of these and no other at S/N 5; 15 % and none at 1, all and 14 % at 20."""
FWHM = 2.3548200450309493


@dataclass(frozen=True, kw_only=True, eq=False)
class LearntRestoration(Restoration[torch.Tensor]):
    """Restored galaxies, the profiles fitted to them and their clumpiness.

    Attributes
    ----------
    profile : fitted profiles: flux, size, ellipticity and their errors
    clumpiness : (object,) τ², flux variance of clumps over the flux squared; 0 = none seen
    """

    profile: ProfileFit
    clumpiness: Float[Tensor, " object"]

    def times(self, unit: float) -> Self:
        """The same in a flux unit `unit` times smaller: fluxes are multiplied by it."""
        if unit == 1.0:
            return self
        return replace(super().times(unit), profile=self.profile.times(unit))

    def numpy(self) -> LearntArrays:
        """Return the same in NumPy arrays."""
        return LearntArrays(**{**array_fields(self), "profile": self.profile.numpy()})

    def select(self, chosen: Tensor) -> LearntRestoration:
        """The galaxies picked by indices."""
        return LearntRestoration(
            image=self.image[chosen],
            flags=self.flags[chosen],
            sigma=self.sigma[chosen],
            chi2=self.chi2[chosen],
            error=None if self.error is None else self.error[chosen],
            profile=self.profile.select(chosen),
            clumpiness=self.clumpiness[chosen],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """Some galaxies, their fitted profiles and what is left over.

    Attributes
    ----------
    sight : how they are seen
    fit : their profiles; where clumps stand out, fitted with the clumps as noise
    tau2 : (object,) clumpiness, 0 where it does not stand out
    residual : (object, y, x) whitened, of the first profiles where they were fitted again
    beside : (object,) significance of light where the galaxy hardly shines [σ]
    """

    sight: Sight
    fit: ProfileFit
    tau2: Float[Tensor, " object"]
    residual: Float[Tensor, "object y x"]
    beside: Float[Tensor, " object"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Restorer:
    """Restores galaxies of a population on a canvas."""

    canvas: Canvas
    prior: Prior
    settings: LearntSettings

    @classmethod
    def of(cls, stack: GalaxyStack, prior: Prior, settings: LearntSettings) -> Restorer:
        """For stamps and PSFs like those of a stack."""
        canvas = Canvas(
            shape=stack.shape,
            psf_shape=(int(stack.psf.shape[-2]), int(stack.psf.shape[-1])),
            oversampling=settings.oversampling,
            dtype=stack.image.dtype,
            device=stack.image.device,
        )
        return cls(canvas=canvas, prior=prior, settings=settings)

    @cached_property
    def fitter(self) -> ProfileFitter:
        """Of the profiles."""
        return ProfileFitter(canvas=self.canvas, prior=self.prior)

    @cached_property
    def band(self) -> Band:
        """The low frequencies."""
        return Band.of(self.canvas)

    @cached_property
    def wide_band(self) -> Band:
        """Nearly all frequencies of a stamp, in float64.

        What clumps are seen by is what no profile could show: a difference, of which rounding
        leaves nothing in bright galaxies.
        """
        return Band.of(self.canvas, highest=WIDE, dtype=torch.float64)

    @cached_property
    def wide_fitter(self) -> ProfileFitter:
        """Of the profiles, by nearly all frequencies."""
        return ProfileFitter(canvas=self.wide_band, prior=self.prior)

    @cached_property
    def fast_fitter(self) -> ProfileFitter:
        """Of the profiles, by their low frequencies."""
        return ProfileFitter(canvas=self.band, prior=self.prior)

    def glance(
        self, stack: GalaxyStack, *, start: Tensor | None = None, max_steps: int | None = None
    ) -> tuple[BandSight, ProfileFit]:
        """Profiles of galaxies without masked pixels, by their low frequencies alone."""
        sight = self._band_sight(stack, self.band)
        return sight, self.fast_fitter.fit(sight, start=start, max_steps=max_steps)

    def _band_sight(self, stack: GalaxyStack, band: Band) -> BandSight:
        width = self.settings.resolution / self.settings.oversampling
        return BandSight.of(stack, band, band.gaussian(width), self.prior.sky)

    @property
    def typical_size(self) -> float:
        """Width of the galaxies that may stand beside others [CCD pixel]."""
        return math.exp(float(self.prior.mean[-1]))

    @cached_property
    def beam(self) -> Float[Tensor, "fy fx"]:
        """What the sky is seen through before the PSF."""
        return self.canvas.gaussian(self.settings.resolution / self.settings.oversampling)

    @cached_property
    def target(self) -> Float[Tensor, "fy fx"]:
        """What the result is seen through."""
        if self.settings.target_fwhm is None:
            return self.beam
        return self.canvas.gaussian(self.settings.target_fwhm / FWHM)

    def look(
        self, stack: GalaxyStack, *, start: Tensor | None = None, max_steps: int | None = None
    ) -> Look:
        """Profiles of some galaxies; clumpy ones are fitted again with the clumps as noise."""
        sight, fitter = self._sight(stack), self.fitter
        fit = fitter.fit(sight, start=start, max_steps=max_steps)
        residual, field = self.left_over(sight, fit)
        tau2, excess = field.clumpiness(residual)
        clumpy = torch.nonzero(excess > SIGNIFICANT).flatten()
        if len(clumpy):
            doubt = field.select(clumpy).doubt(tau2[clumpy])
            again = fitter.fit(
                sight.select(clumpy).doubted(doubt), start=fit.z[clumpy], max_steps=max_steps
            )
            fit = fit.replaced(clumpy, again)
        tau2 = torch.where(excess > SIGNIFICANT, tau2, 0.0)
        beside = field.beside(residual, width=self.typical_size)
        return Look(sight=sight, fit=fit, tau2=tau2, residual=residual, beside=beside)

    def _sight(self, stack: GalaxyStack) -> Sight:
        transfer = self.canvas.transfer(stack.psf) * (self.beam * self.canvas.to_centre)
        return Sight(
            canvas=self.canvas,
            image=stack.image,
            root_weight=stack.weight.sqrt(),
            beam=transfer.expand(len(stack), -1, -1),
            sky=self.prior.sky,
        )

    def left_over(self, sight: Sight, fit: ProfileFit) -> tuple[Tensor, ClumpField]:
        """Whitened residuals of the profiles and the sky, and the clumps they may hold."""
        canvas, basis = self.canvas, self.fitter.basis
        seen = canvas.observe(basis.spectra(fit.z, sight.beam))
        light = basis.spectra(fit.z, self.beam * canvas.to_centre)
        field = ClumpField(
            canvas=canvas,
            transfer=sight.beam * canvas.to_centre.conj(),
            root_weight=sight.root_weight,
            variance=clump_variance(light, fit.flux.to(seen), canvas),
        )
        return sight.without_sky((sight.image - seen) * sight.root_weight), field

    def fits(
        self, stack: GalaxyStack, *, start: Tensor | None = None, max_steps: int | None = None
    ) -> tuple[ProfileFit, Float[Tensor, " moment"]]:
        """Profiles of any number of galaxies, and what these say of the levels under them."""

        def part(some: Tensor, *, fast: bool) -> tuple[ProfileFit, Tensor]:
            chosen, begin = stack.select(some), None if start is None else start[some]
            if not fast:
                look = self.look(chosen, start=begin, max_steps=max_steps)
                return look.fit, self.fitter.level_moments(look.sight, look.fit)
            fit = self.glance(chosen, start=begin, max_steps=max_steps)[1]
            few = torch.arange(0, len(some), LEVELS_OF, device=some.device)
            seen = self._sight(chosen.select(few))
            return fit, self.fitter.level_moments(seen, fit.select(few))

        batches = self.batches(stack)
        order = torch.cat([some for some, _ in batches])
        found = [part(some, fast=fast) for some, fast in batches]
        levels = torch.stack([of_part for _, of_part in found]).sum(0)
        return join_fits([fit for fit, _ in found]).select(order.argsort()), levels

    def batches(self, stack: GalaxyStack) -> list[tuple[Tensor, bool]]:
        """Indices of galaxies to take together, and whether their low frequencies do."""
        plain = ~stack.masked if self.settings.fast else torch.zeros_like(stack.masked)
        return [
            (some, fast)
            for fast, size in ((True, FAST_BATCH), (False, BATCH))
            for some in _cut(torch.nonzero(plain == fast).flatten(), size)
        ]

    def restore_fast(self, stack: GalaxyStack) -> LearntRestoration:
        """The galaxies of a batch without masked pixels, by their low frequencies alone."""
        sight, fit = self.glance(stack)
        frame = self.target * self.canvas.to_centre
        parts = [fit.select(some) for some in _cut(torch.arange(len(stack)), BATCH)]
        images = [self.canvas.image(self.fitter.basis.spectra(part.z, frame)) for part in parts]
        error = None
        if self.settings.error:
            error = torch.cat([self._profile_variance(part) for part in parts])
            error = error.clamp(min=0).sqrt()
        found = LearntRestoration(
            image=torch.cat(images),
            flags=torch.where(fit.converged, 0, int(ObjectFlag.NOT_CONVERGED)),
            sigma=stack.sigma,
            chi2=(fit.chi2 / sight.n_values).to(stack.image),
            error=error,
            profile=fit,
            clumpiness=torch.zeros_like(stack.sigma),
        )
        clumpy = torch.nonzero(fit.excess > STANDS_OUT).flatten()
        if self.settings.clumps:
            for some in _cut(clumpy, BATCH):
                self._add_clumps(found, stack, some)
        return found

    def _add_clumps(self, found: LearntRestoration, stack: GalaxyStack, clumpy: Tensor) -> None:
        """Restore some galaxies anew, with what their profiles leave over."""
        fit = found.profile.select(clumpy)
        sight = self._band_sight(stack.select(clumpy), self.wide_band)
        sight = sight.without_sky(self.wide_fitter.basis.spectra(fit.z, sight.beam))
        field = StrewnField.of(sight, self.wide_fitter, self.wide_band, fit.z)
        tau2 = field.clumpiness()
        clumps = field.solved(tau2)
        width = self.settings.resolution / self.settings.oversampling
        if self.settings.target_fwhm is not None:
            width = self.settings.target_fwhm / FWHM
        image, remains = field.restored(clumps, sigma=width), field.remains(clumps)
        found.image[clumpy] = image.to(found.image)
        found.chi2[clumpy] = (remains.square().sum(1) / sight.n_values).to(found.chi2)
        found.clumpiness[clumpy] = tau2.to(found.clumpiness)
        if found.error is not None:
            own = field.uncertainty(clumps, sigma=width).to(found.error)
            found.error[clumpy] = (found.error[clumpy] ** 2 + own).sqrt()

    def restore(self, stack: GalaxyStack) -> LearntRestoration:
        """The galaxies of a batch."""
        look = self.look(stack)
        fit = look.fit
        frame = self.target * self.canvas.to_centre
        used = (look.sight.root_weight > 0).flatten(1).sum(1)
        error = None
        if self.settings.error:
            error = self._profile_variance(fit).clamp(min=0).sqrt()
        found = LearntRestoration(
            image=self.canvas.image(self.fitter.basis.spectra(fit.z, frame)),
            flags=self._flags(stack, look),
            sigma=stack.sigma,
            chi2=(look.residual**2).sum((1, 2)) / used,
            error=error,
            profile=fit,
            clumpiness=look.tau2,
        )
        if self.settings.clumps:
            for even, add in ((True, self._add_clumps), (False, self._add_uneven_clumps)):
                chosen = torch.nonzero((look.tau2 > 0) & (stack.even == even)).flatten()
                if len(chosen):
                    add(found, stack, chosen)
        return found

    def _add_uneven_clumps(
        self, found: LearntRestoration, stack: GalaxyStack, clumpy: Tensor
    ) -> None:
        """Add the clumps of galaxies whose pixels do not all weigh the same."""
        sight = self._sight(stack.select(clumpy))
        residual, field = self.left_over(sight, found.profile.select(clumpy))
        tau2, _ = field.clumpiness(residual)
        clumps, spread = field.restored(residual, tau2)
        residual = residual - field.forward(clumps)
        used = (sight.root_weight > 0).flatten(1).sum(1)
        found.image[clumpy] += self.canvas.image(self.canvas.spectra(clumps) * self.target)
        found.chi2[clumpy] = (residual**2).sum((1, 2)) / used
        found.clumpiness[clumpy] = tau2
        if found.error is not None:
            ny, nx = self.canvas.fine_shape
            own = field.uncertainty(spread, self.target)[:, :ny, :nx]
            found.error[clumpy] = (found.error[clumpy] ** 2 + own.clamp(min=0)).sqrt()

    def _profile_variance(self, fit: ProfileFit) -> Float[Tensor, "object y x"]:
        """Of each pixel, from the parameters' covariance."""
        columns = self.fitter.basis.columns(fit.z, self.target * self.canvas.to_centre)
        images = self.canvas.image(columns)
        root: Tensor = torch.linalg.cholesky_ex(fit.covariance)[0].to(images)
        return ((root.mT @ images.flatten(2)) ** 2).sum(1).reshape(len(images), *images.shape[2:])

    def _flags(self, stack: GalaxyStack, look: Look) -> Int[Tensor, " object"]:
        masked = torch.where(stack.masked, int(ObjectFlag.MASKED), 0)
        blended = torch.where(look.beside > NEIGHBOUR, int(ObjectFlag.BLENDED), 0)
        late = torch.where(look.fit.converged, 0, int(ObjectFlag.NOT_CONVERGED))
        return masked | blended | late


def _cut(indices: Tensor, size: int) -> list[Tensor]:
    return [indices[i : i + size] for i in range(0, len(indices), size)]


def restore(
    stack: GalaxyStack, prior: Prior, *, settings: LearntSettings | None = None
) -> LearntRestoration:
    """Galaxies without their PSFs, each by itself: a block gives what its galaxies give alone.

    Parameters
    ----------
    stack : galaxies, weights and PSFs
    prior : what galaxies look like, from `learn_prior`
    settings : None for the defaults

    Returns
    -------
    image on the PSFs' grid (``oversampling`` times finer than the stamps; a fine image has the
    flux of a coarse one per fine pixel), its standard error, flags, and the fitted profiles
    """
    restorer = Restorer.of(stack, prior, settings or LearntSettings())
    batches = restorer.batches(stack)
    order = torch.cat([some for some, _ in batches])
    parts = [
        restorer.restore_fast(stack.select(some)) if fast else restorer.restore(stack.select(some))
        for some, fast in batches
    ]
    return _joined(parts).select(order.argsort())


def _joined(parts: Sequence[LearntRestoration]) -> LearntRestoration:
    errors = [part.error for part in parts if part.error is not None]
    return LearntRestoration(
        image=torch.cat([part.image for part in parts]),
        flags=torch.cat([part.flags for part in parts]),
        sigma=torch.cat([part.sigma for part in parts]),
        chi2=torch.cat([part.chi2 for part in parts]),
        error=torch.cat(errors) if errors else None,
        profile=join_fits([part.profile for part in parts]),
        clumpiness=torch.cat([part.clumpiness for part in parts]),
    )
