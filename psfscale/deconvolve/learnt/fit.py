r"""The elliptical profile of highest posterior density of each galaxy, by Levenberg–Marquardt.

Minimised over z (see `profile`) is ``Σ w (y − H sky(z))² + (b, l − l̄)ᵀC⁻¹(b, l − l̄) + |e|²/σ_e² +
|centre|²/σ_c²``, each galaxy by itself: a batch gives what its galaxies give alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from psfscale.deconvolve.learnt.arrays import Profiles
from psfscale.deconvolve.learnt.background import MISFIT, NO_SKY, level_moments
from psfscale.deconvolve.learnt.prior import Prior, ProfileSums
from psfscale.deconvolve.learnt.profile import Layout, ProfileBasis
from psfscale.deconvolve.learnt.trust import excess_of, trust_in
from psfscale.kernels.user_tensors import array_fields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Complex, Float
    from torch import Tensor

    from psfscale.deconvolve.learnt.band import BandSight
    from psfscale.deconvolve.learnt.fourier import FourierPlane
    from psfscale.deconvolve.learnt.observation import Sight

__all__ = ["ProfileFit", "ProfileFitter", "join_fits"]

TOLERANCE = 0.05
"""A step that lowers the cost, twice a log-density, by less is the last one."""
LARGEST_STEP = 0.7
"""Limit of a step in log flux, log size and ellipticity, and of that in pixels [1]."""
MAX_STEPS = 25
START_SIZES = (-2.0, -1.2, -0.4, 0.4, 1.2, 2.0)
"""Sizes tried first, in spreads of the prior's."""
FIRST_DAMPING = 1e-2
DAMPING_RANGE = (1e-6, 1e6)
LEAST_FLUX = 0.1
"""Least flux to start from, over its noise."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ProfileFit:
    """Fitted profiles.

    Attributes
    ----------
    z : (object, parameter), see `profile.Layout`
    covariance : (object, parameter, parameter) of z, by the curvature at the maximum
    converged : (object,)
    chi2 : (object,) squared residual over the noise, of all that was fitted
    excess : (object,) of chi2 over its mean without a misfit, in its own scatter [σ]
    prior : the population; z's modes are its modes
    """

    z: Float[Tensor, "object parameter"]
    covariance: Float[Tensor, "object parameter parameter"]
    converged: Bool[Tensor, " object"]
    chi2: Float[Tensor, " object"]
    excess: Float[Tensor, " object"]
    prior: Prior

    def times(self, unit: float) -> ProfileFit:
        """The same in a flux unit `unit` times smaller."""
        z = self.z.clone()
        z[:, 0] += math.log(unit)
        return replace(self, z=z, prior=self.prior.times(unit))

    @cached_property
    def layout(self) -> Layout:
        """Where the parameters stand."""
        return _layout(self.prior)

    @property
    def flux(self) -> Float[Tensor, " object"]:
        """Flux of the profile, on the stamp and beyond [as the images]."""
        return self.z[:, 0].exp()

    @property
    def flux_error(self) -> Float[Tensor, " object"]:
        """Standard error of `flux`."""
        return self.flux * self.covariance[:, 0, 0].sqrt()

    @property
    def size(self) -> Float[Tensor, " object"]:
        """Scale of the profile, exp l [pixel]."""
        return self.z[:, self.layout.log_size].exp()

    @property
    def ellipticity(self) -> Float[Tensor, "object 2"]:
        """Distortion of the profile, (Mxx − Myy, 2 Mxy) / (Mxx + Myy)."""
        e = self.z[:, self.layout.ellipticity]
        modulus = e.norm(dim=1, keepdim=True).clamp(min=1e-12)
        distortion: Tensor = e * torch.tanh(2 * modulus) / modulus
        return distortion

    @property
    def ellipticity_error(self) -> Float[Tensor, "object 2"]:
        """Standard errors of `ellipticity`, as along its own direction: an upper bound."""
        where = self.layout.ellipticity
        spread = self.covariance.diagonal(dim1=1, dim2=2)[:, where].sqrt()
        return 2 * spread

    def numpy(self) -> Profiles:
        """Return what describes the profiles in NumPy arrays."""
        return Profiles(**array_fields(self, of=Profiles))

    def select(self, chosen: Tensor) -> ProfileFit:
        """The fits picked by indices."""
        return ProfileFit(
            z=self.z[chosen],
            covariance=self.covariance[chosen],
            converged=self.converged[chosen],
            chi2=self.chi2[chosen],
            excess=self.excess[chosen],
            prior=self.prior,
        )

    def replaced(self, chosen: Tensor, by: ProfileFit) -> ProfileFit:
        """These fits with those at `chosen` taken from another."""
        out = self.select(torch.arange(len(self.z), device=self.z.device))
        for name in ("z", "covariance", "converged", "chi2", "excess"):
            getattr(out, name)[chosen] = getattr(by, name)
        return out

    def population_vector(self) -> Float[Tensor, "object v"]:
        """v: flux fractions and ln size."""
        fractions = self.prior.mean[:-1] + self.z[:, self.layout.modes] @ self.prior.modes.T
        return torch.cat([fractions, self.z[:, self.layout.log_size, None]], 1)

    def sums(self, log_width: float, levels: Float[Tensor, " moment"]) -> ProfileSums:
        """What the converged galaxies tell of their population.

        Galaxies that the profiles do not describe tell little of them.

        Parameters
        ----------
        log_width : of their PSFs [ln pixel]
        levels : their `ProfileFitter.level_moments`
        """
        trust = trust_in(self.excess) * self.converged
        v = self.population_vector()
        where, n = self.layout, self.layout.n_modes
        own = [*range(1, 1 + n), where.log_size]
        to_v = v.new_zeros(v.shape[1], n + 1)
        to_v[:-1, :n] = self.prior.modes
        to_v[-1, n] = 1
        spread = (self.covariance * trust[:, None, None]).nan_to_num().sum(0)
        noise = to_v @ spread[own][:, own] @ to_v.T
        weighted = v * trust[:, None]
        product = (self.z.mT * trust) @ self.z + spread

        def pairs(one: slice, other: slice) -> float:
            block = product[one, other]
            return float(block.trace()) / 2 if block.numel() else 0.0

        return ProfileSums(
            count=float(trust.sum()),
            first=weighted.sum(0).cpu(),
            second=(weighted.T @ v + noise).cpu(),
            ellipticity=pairs(where.ellipticity, where.ellipticity),
            gradient=pairs(where.gradient, where.gradient),
            alignment=pairs(where.ellipticity, where.gradient),
            centre=pairs(where.centre, where.centre),
            log_width=float(trust.sum()) * log_width,
            levels=levels,
        )

    def under(self, prior: Prior) -> Float[Tensor, "object parameter"]:
        """The parameters z in the modes of another prior, as near as they come."""
        prior = prior.to(self.z.device)
        v = self.population_vector()
        b = (v[:, :-1] - prior.mean[:-1]) @ prior.modes
        where = self.layout
        after = where.gradient.start if prior.twist else where.centre.start
        return torch.cat([self.z[:, :1], b, self.z[:, after:]], 1)


def _layout(prior: Prior) -> Layout:
    return Layout(n_modes=prior.modes.shape[1], twist=prior.twist)


def join_fits(parts: Sequence[ProfileFit]) -> ProfileFit:
    """Fits of parts of a stack as one."""
    names = [f.name for f in fields(ProfileFit) if f.name != "prior"]
    whole = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return ProfileFit(**whole, prior=parts[0].prior)


@dataclass(frozen=True, kw_only=True, eq=False)
class _State:
    """Where the galaxies stand: parameters, cost, and its quadratic model."""

    z: Tensor
    cost: Tensor
    chi2: Tensor
    curvature: Tensor
    slope: Tensor

    def put(self, chosen: Tensor, other: _State) -> None:
        for f in fields(self):
            getattr(self, f.name)[chosen] = getattr(other, f.name)

    def select(self, chosen: Tensor) -> _State:
        return _State(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})


@dataclass(frozen=True, kw_only=True, eq=False)
class ProfileFitter:
    """Fits profiles of a population on a canvas.

    Attributes
    ----------
    canvas : frequencies of what is fitted
    prior : the population
    """

    canvas: FourierPlane
    prior: Prior

    @cached_property
    def basis(self) -> ProfileBasis:
        """The prior's profiles on the canvas."""
        like, prior = self.canvas.fy, self._prior
        return ProfileBasis(
            canvas=self.canvas,
            mean=prior.mean[:-1].to(like),
            modes=prior.modes.to(like),
            twist=prior.twist,
        )

    @cached_property
    def _prior(self) -> Prior:
        """The prior where the canvas is."""
        return self.prior.to(self.canvas.device)

    @cached_property
    def _precision(self) -> Float[Tensor, "parameter parameter"]:
        where = self.basis.layout
        inverse: Tensor = torch.linalg.inv(self._prior.population)
        out = inverse.new_zeros(where.size, where.size)
        own = torch.tensor([*range(1, 1 + where.n_modes), where.log_size], device=out.device)
        out[own[:, None], own] = inverse
        out.diagonal()[where.centre] = 1 / self.prior.centre
        shape = self._prior.shape_precision
        out.diagonal()[where.ellipticity] = shape[0, 0]
        if where.twist:
            out.diagonal()[where.gradient] = shape[1, 1]
            out[where.ellipticity, where.gradient].diagonal()[:] = shape[0, 1]
            out[where.gradient, where.ellipticity].diagonal()[:] = shape[0, 1]
        return out

    @cached_property
    def _centre_of_prior(self) -> Float[Tensor, " parameter"]:
        out = self._precision.new_zeros(self.basis.layout.size)
        out[self.basis.layout.log_size] = self.prior.mean[-1]
        return out

    def fit(
        self,
        sight: Sight | BandSight,
        *,
        start: Float[Tensor, "object parameter"] | None = None,
        max_steps: int | None = None,
    ) -> ProfileFit:
        """The profiles of highest posterior density, from `start` or from scratch."""
        state = self._evaluate(sight, self._start(sight) if start is None else start)
        n = len(state.z)
        damping = state.cost.new_full((n,), FIRST_DAMPING)
        hardening = torch.full_like(damping, 2.0)
        done = torch.zeros(n, dtype=torch.bool, device=damping.device)
        for _ in range(MAX_STEPS if max_steps is None else max_steps):
            active = torch.nonzero(~done).flatten()
            here = state.select(active)
            step, gain = self._step(here, damping[active])
            enough = gain < TOLERANCE * (here.chi2 / sight.n_values[active]).clamp(min=1)
            done[active] = enough
            if bool(enough.all()):
                break
            active, step, gain = active[~enough], step[~enough], gain[~enough]
            here = state.select(active)
            tried = self._evaluate(sight.select(active), here.z + step)
            ratio = (here.cost - tried.cost) / gain
            better = ratio > 0
            state.put(active[better], tried.select(better))
            eased = (1 - (2 * ratio - 1) ** 3).clamp(min=1 / 3)
            change = torch.where(better, eased, hardening[active])
            hardening[active] = torch.where(better, 2.0, 2 * hardening[active])
            damping[active] = (damping[active] * change).clamp(*DAMPING_RANGE)
        return ProfileFit(
            z=state.z,
            covariance=torch.linalg.inv(state.curvature),
            converged=done & torch.isfinite(state.cost),
            chi2=state.chi2,
            excess=excess_of(state.chi2, sight.n_values),
            prior=self._prior,
        )

    def newton(
        self,
        z: Float[Tensor, "object parameter"],
        seen: Float[Tensor, "object parameter value"],
        rest: Float[Tensor, "object value"],
    ) -> tuple[Float[Tensor, "object parameter parameter"], Float[Tensor, "object parameter"]]:
        """Covariance of the parameters, and the step to the optimum of what is linear round z."""
        covariance: Tensor = torch.linalg.inv((seen @ seen.mT).double() + self._precision)
        pull = (z - self._centre_of_prior) @ self._precision
        slope = (rest[:, None] @ seen.mT)[:, 0].double() - pull
        return covariance, (covariance @ slope[..., None])[..., 0]

    def level_moments(self, sight: Sight | BandSight, fit: ProfileFit) -> Float[Tensor, " moment"]:
        """What fits say of the levels under their galaxies, as far as `sight` shows them."""
        bare = replace(sight, sky=NO_SKY)
        seen = bare.seen(self.basis.columns(fit.z, sight.beam))
        rest = torch.stack([bare.data - seen[:, 0], bare.level], 1)
        both = torch.cat([seen, rest], 1)
        return level_moments(
            (both @ both.mT).double(),
            self._precision,
            (fit.z - self._centre_of_prior) @ self._precision,
            sky=self._prior.sky,
            least=MISFIT * fit.flux / math.prod(self.canvas.shape),
            n_values=torch.where(fit.converged, sight.n_values, 0),
        ).cpu()

    def _step(self, state: _State, damping: Tensor) -> tuple[Tensor, Tensor]:
        """A damped step, kept short, and what the quadratic model promises of it."""
        diagonal = state.curvature.diagonal(dim1=1, dim2=2)
        damped = state.curvature + torch.diag_embed(damping[:, None] * diagonal)
        step = torch.linalg.solve(damped, state.slope)
        where = self.basis.layout
        free = torch.cat([step[:, :1], step[:, where.centre.start :]], 1).abs().amax(1)
        return step * (LARGEST_STEP / free.clamp(min=LARGEST_STEP))[:, None], (
            step * state.slope
        ).sum(1)

    def _evaluate(self, sight: Sight | BandSight, z: Tensor) -> _State:
        seen = sight.seen(self.basis.columns(z, sight.beam))
        both = torch.cat([seen, (sight.data - seen[:, 0])[:, None]], 1)
        gram = (both @ both.mT).double()
        return self._relaxed(z, gram)

    def _relaxed(self, z: Tensor, gram: Tensor) -> _State:
        """The state after what is linear moved to its optimum, for which `gram` is exact.

        Without it the fit would creep along the valley where size and modes trade places.
        """
        where = self.basis.layout
        own = where.linear
        curvature = gram[:, :-1, :-1] + self._precision
        pull = (z - self._centre_of_prior) @ self._precision
        slope = gram[:, :-1, -1] - pull
        move = torch.linalg.solve(curvature[:, own, own], slope[:, own])
        move[:, 0] = move[:, 0].clamp(-LARGEST_STEP, LARGEST_STEP)
        grown = 1 + move[:, :1]
        moved = z.clone()
        moved[:, 0] += torch.log(grown[:, 0])
        moved[:, 1 : own.stop] += move[:, 1:] / grown
        met = (gram[:, :-1, own] @ move[..., None])[..., 0]
        chi2 = gram[:, -1, -1] - (move * (2 * gram[:, own, -1] - met[:, own])).sum(1)
        away = moved - self._centre_of_prior
        pull = away @ self._precision
        return _State(
            z=moved,
            cost=chi2 + (away * pull).sum(1),
            chi2=chi2,
            curvature=curvature,
            slope=gram[:, :-1, -1] - met - pull,
        )

    def _start(self, sight: Sight | BandSight) -> Float[Tensor, "object parameter"]:
        """Round galaxies at the stamp's centre, of the size that explains most."""
        n, where = len(sight.data), self.basis.layout
        skies, sizes = self._starts
        models = sight.seen(skies * sight.beam[:, None])
        power = (models**2).sum(2).double().clamp(min=1e-30)
        flux = (sight.data[:, None] @ models.mT)[:, 0].double() / power
        penalty = torch.tensor(START_SIZES, dtype=flux.dtype, device=flux.device) ** 2
        best = (flux.clamp(min=0) ** 2 * power - penalty).argmax(1)
        row = torch.arange(n, device=best.device)
        found = torch.maximum(flux, LEAST_FLUX / power.sqrt())[row, best]
        z = self._centre_of_prior.repeat(n, 1)
        z[:, 0] = torch.log(found)
        z[:, where.log_size] = sizes[best]
        return z

    @cached_property
    def _starts(self) -> tuple[Complex[Tensor, "size fy fx"], Float[Tensor, " size"]]:
        """Skies of unit flux to start from, and their ln sizes."""
        z = self._centre_of_prior.repeat(len(START_SIZES), 1)
        spread = float(self.prior.population[-1, -1]) ** 0.5
        z[:, self.basis.layout.log_size] += spread * torch.tensor(START_SIZES).to(z)
        sky = self.basis.spectra(z, torch.ones_like(self.canvas.fy))
        return sky, z[:, self.basis.layout.log_size]
