"""A prior learnt from the catalogue itself, by expectation and maximisation over blocks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

import torch

from psfscale.deconvolve.learnt.prior import Prior, ProfileSums, vague_prior
from psfscale.deconvolve.learnt.restore import LearntRestoration, Restorer, restore
from psfscale.deconvolve.learnt.settings import LearntSettings
from psfscale.deconvolve.stack import galaxy_stack
from psfscale.errors import InputError
from psfscale.kernels.user_tensors import unit_of_images
from psfscale.yamlfile import with_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Int
    from numpy.typing import ArrayLike
    from torch import Tensor

    from psfscale.deconvolve.learnt.arrays import LearntArrays
    from psfscale.deconvolve.learnt.fit import ProfileFit
    from psfscale.deconvolve.stack import GalaxyStack

__all__ = [
    "contribution",
    "deconvolve",
    "first_prior",
    "learn_prior",
    "learn_sums",
    "restore_by_own_prior",
    "sample_of",
]

VAGUE_SKY = 1.0
"""Spread of the levels under galaxies before any is seen [noise σ]."""
LATER_STEPS = 3
"""Steps of the fits in each round after the first: they start where the last round ended."""


def first_prior(stack: GalaxyStack, settings: LearntSettings) -> Prior:
    """What is believed before any galaxy is seen: that they are about as large as the PSF.

    Any sky is: profiles that had to take it up would go on doing so.
    """
    spread = VAGUE_SKY * float(stack.sigma.double().median()) if settings.sky else 0.0
    prior = vague_prior(_log_width(stack, settings), twist=not settings.fast)
    return replace(prior, sky_variance=spread**2)


def _log_width(stack: GalaxyStack, settings: LearntSettings) -> float:
    """Ln width of the Gaussian that is as sharp as the stack's median PSF [ln pixel]."""
    area = 1 / (stack.psf.double() ** 2).sum((1, 2)).median()
    return math.log(math.sqrt(float(area) / (4 * math.pi)) / settings.oversampling)


def contribution(
    stack: GalaxyStack,
    prior: Prior,
    *,
    settings: LearntSettings,
    last: ProfileFit | None = None,
) -> tuple[ProfileSums, ProfileFit]:
    """What the galaxies of one block add to the sums a prior is learnt from.

    Parameters
    ----------
    last : the fits that this function returned for the block in the round before, to start from

    Returns
    -------
    sums, which add up over blocks with ``+`` in any order, and the fits
    """
    restorer = Restorer.of(stack, prior, settings)
    start = None if last is None else last.under(prior)
    fit, levels = restorer.fits(stack, start=start, max_steps=None if last is None else LATER_STEPS)
    if not settings.sky:
        levels = torch.zeros_like(levels)
    return fit.sums(_log_width(stack, settings), levels), fit


def learn_prior(stacks: Sequence[GalaxyStack], *, settings: LearntSettings | None = None) -> Prior:
    """What the galaxies of some blocks look like; a few hundred of them suffice.

    Parameters
    ----------
    stacks : blocks of galaxies, all of one stamp and PSF shape; only a table of fitted
        parameters is kept of each between the rounds
    settings : None for the defaults

    Raises
    ------
    InputError
        No galaxies came.
    """
    settings = settings or LearntSettings()
    if not any(len(stack) for stack in stacks):
        msg = "a prior is learnt from at least one galaxy, got none"
        raise InputError(msg)
    total = learn_sums(stacks, settings=settings)
    return total.prior() if total.count else first_prior(stacks[0], settings)


def learn_sums(
    stacks: Sequence[GalaxyStack], *, settings: LearntSettings, prior: Prior | None = None
) -> ProfileSums:
    """The sums of some blocks after ``n_rounds`` rounds, the first of them under `prior`.

    Parameters
    ----------
    prior : None for a vague one
    """
    prior = first_prior(stacks[0], settings) if prior is None else prior
    last: list[ProfileFit | None] = [None] * len(stacks)
    for n in range(settings.n_rounds):
        parts = [
            contribution(stack, prior, settings=settings, last=fit)
            for stack, fit in zip(stacks, last, strict=True)
        ]
        total = parts[0][0]
        for sums, _ in parts[1:]:
            total = total + sums
        last = [fit for _, fit in parts]
        if not total.count:
            break
        if n + 1 < settings.n_rounds:
            prior = total.prior()
    return total


@overload
def deconvolve(images: Tensor, psfs: ArrayLike | Tensor, **options: Any) -> LearntRestoration: ...


@overload
def deconvolve(images: ArrayLike, psfs: ArrayLike | Tensor, **options: Any) -> LearntArrays: ...


def deconvolve(
    images: ArrayLike | Tensor,
    psfs: ArrayLike | Tensor,
    *,
    weight: ArrayLike | Tensor | None = None,
    sigma: ArrayLike | Tensor | float | None = None,
    mask: ArrayLike | Tensor | None = None,
    prior: Prior | None = None,
    settings: LearntSettings | None = None,
    **options: Any,
) -> LearntRestoration | LearntArrays:
    """Restore a stack of galaxies by a prior learnt from the stack itself, or given.

    The result holds tensors where `images` is a tensor, on its device, and NumPy arrays else.

    Parameters
    ----------
    images, psfs, weight, sigma, mask : see `psfscale.deconvolve.stack.galaxy_stack`
    prior : from `learn_prior`; learnt from ``n_learn`` of these galaxies where None
    settings : all settings, or None for the defaults
    **options : single settings, over `settings`; see `LearntSettings`

    Raises
    ------
    ConfigError
        A setting is unknown or out of range.
    InputError
        The arrays are not what they should be.

    Examples
    --------
    >>> import numpy as np
    >>> psf = np.full((3, 3), 1 / 9)
    >>> deconvolve(np.eye(9)[None], psf, sigma=0.1).image.shape
    (1, 9, 9)
    """
    chosen = with_options(
        settings or LearntSettings(), options, name="settings of the learnt restoration"
    )
    unit = unit_of_images(images)
    stack = galaxy_stack(images, psfs, weight=weight, sigma=sigma, mask=mask, unit=unit)
    if prior is None:
        found = restore_by_own_prior(stack, settings=chosen).times(unit)
    else:
        found = restore(stack, prior.times(1 / unit), settings=chosen).times(unit)
    return found if isinstance(images, torch.Tensor) else found.numpy()


def restore_by_own_prior(stack: GalaxyStack, *, settings: LearntSettings) -> LearntRestoration:
    """Galaxies restored by the prior that a sample of them, evenly spaced, teaches."""
    sample = sample_of(len(stack), settings.n_learn)
    prior = learn_prior([stack.select(sample)], settings=settings)
    return restore(stack, prior, settings=settings)


def sample_of(n: int, n_wanted: int) -> Int[Tensor, " object"]:
    """Indices of some of `n` galaxies, evenly spaced; of all where no fewer are wanted."""
    m = min(n_wanted, n)
    return (torch.arange(m) * n) // max(m, 1)
