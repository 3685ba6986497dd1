"""The stages that learn what galaxies look like, from a sample of the run's first exposures.

Each CCD of the sample first learns from its own galaxies alone. What they told is added up over
the sample, and under the prior of that sum each CCD fits them once more: the sum of these is the
prior that every galaxy of the run is restored by. Sums are taken in the order of exposures and
CCDs, so that any number of workers gives the same.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from psfscale.pipeline.stages.ccd import group_of, restoring_psfs, seen_galaxies

if TYPE_CHECKING:
    from psfscale.deconvolve.learnt.prior import Prior
    from psfscale.deconvolve.learnt.settings import LearntSettings
    from psfscale.pipeline.stages.context import RunContext


def sample_galaxies(ccd: xr.Dataset, context: RunContext) -> xr.Dataset:
    """What the sampled galaxies of a CCD tell under a prior of their own."""
    sums = _sums(ccd, context, prior=None, settings=context.restore_settings.learnt)
    return xr.Dataset({"prior/sample_sums": ("prior.sum", sums)})


def learn_galaxies(ccd: xr.Dataset, context: RunContext) -> xr.Dataset:
    """What the same galaxies tell under the prior of all samples."""
    from psfscale.deconvolve.learnt.prior import shared_prior

    prior = shared_prior(ccd["prior/sample_sums"].values)
    once = context.restore_settings.learnt.model_copy(update={"n_rounds": 1})
    sums = _sums(ccd, context, prior=prior, settings=once)
    return xr.Dataset({"prior/sums": ("prior.sum", sums)})


def _sums(
    ccd: xr.Dataset, context: RunContext, *, prior: Prior | None, settings: LearntSettings
) -> np.ndarray:
    from psfscale.deconvolve.learnt.learn import learn_sums, sample_of
    from psfscale.deconvolve.stack import galaxy_stack

    galaxies = group_of(ccd, "galaxies")
    seen = _sound_galaxies(galaxies)
    chosen = seen[sample_of(len(seen), ceil(settings.n_learn / context.sizes["ccd"])).numpy()]
    if not chosen.size:
        return np.full(context.sizes["prior.sum"], np.nan)
    stack = galaxy_stack(
        galaxies["image"].values[chosen],
        restoring_psfs(ccd, chosen, context),
        weight=galaxies["weight"].values[chosen],
    )
    return learn_sums([stack], settings=settings, prior=prior).vector().numpy()


def _sound_galaxies(galaxies: xr.Dataset) -> np.ndarray:
    """Indices of the galaxies that have a pixel in use, and all of these finite."""
    seen = seen_galaxies(galaxies)
    image, weight = (galaxies[name].values[seen] for name in ("image", "weight"))
    return seen[np.isfinite(np.where(weight > 0, image, 0.0)).all(axis=(1, 2))]
