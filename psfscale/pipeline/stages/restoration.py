"""The stage that restores galaxies, each with the PSF of its CCD's model at its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from psfscale.arrays import ObjectFlag, Role
from psfscale.pipeline.stages.ccd import extrapolation, group_of, pad, restoring_psfs, seen_galaxies

if TYPE_CHECKING:
    from psfscale.metrics import Moments
    from psfscale.pipeline.stages.context import RunContext

BLOCK = 512
"""Galaxies restored in one call where each is by itself: bounds the memory of a full CCD."""


def restore_galaxies(ccd: xr.Dataset, context: RunContext) -> xr.Dataset:
    """Restore the galaxies of a CCD; those without a pixel in use are flagged and left out.

    PSFs are drawn where they are needed and never stored.

    Raises
    ------
    InputError
        A galaxy has NaN or infinite pixels with a positive weight.
    """
    from psfscale.metrics.field import sky_jacobian

    galaxies = group_of(ccd, "galaxies")
    there = galaxies["role"].values != Role.EMPTY
    chosen, n = seen_galaxies(galaxies), galaxies.sizes["galaxy"]
    flags = np.where(there, int(ObjectFlag.MASKED), 0).astype(np.uint32)
    x, y = galaxies["x"].values[chosen], galaxies["y"].values[chosen]
    flags[chosen] = extrapolation(ccd, x, y, context)
    empty = np.full((0, *context.restored_grid.shape), np.nan, np.float32)
    found: dict[str, np.ndarray] = {"image": empty, "error": empty, "chi2": empty[:, 0, 0]}
    if chosen.size:
        found = _restored(ccd, chosen, context)
        flags[chosen] |= found["flags"].astype(np.uint32)
    flux = found["image"].sum(axis=(1, 2), dtype=np.float64)
    shapes = _shapes(found["image"], context)
    scale = context.instrument.detector.pixel_scale
    jacobian = sky_jacobian(galaxies, pixel_scale=scale)[chosen]
    on_sky = shapes.on_sky(jacobian, pixel_scale=scale)
    flags[chosen] |= np.where(shapes.ok, 0, int(ObjectFlag.MOMENTS_FAILED_DATA)).astype(np.uint32)
    measured = {
        f"galaxies/restored_{name}{frame}": getattr(moments, name)
        for frame, moments in (("", shapes), ("_sky", on_sky))
        for name in ("e1", "e2", "R2")
    }
    stamp = ("galaxy", "galaxies.restored_y", "galaxies.restored_x")
    return xr.Dataset(
        {
            "galaxies/restored": (stamp, pad(found["image"], chosen, n)),
            "galaxies/restored_error": (stamp, pad(found["error"], chosen, n)),
            "galaxies/restored_flux": ("galaxy", pad(flux, chosen, n)),
            "galaxies/restored_chi2": ("galaxy", pad(found["chi2"], chosen, n)),
            "galaxies/restored_flags": ("galaxy", flags),
            **{path: ("galaxy", pad(v, chosen, n)) for path, v in measured.items()},
        }
    )


def _shapes(restored: np.ndarray, context: RunContext) -> Moments:
    """Adaptive moments of restored galaxies; NaN where one has none."""
    from psfscale.metrics import adaptive_moments

    scale = context.instrument.detector.pixel_scale / context.restored_grid.oversampling
    return adaptive_moments(restored, pixel_scale=scale)


def _restored(ccd: xr.Dataset, chosen: np.ndarray, context: RunContext) -> dict[str, np.ndarray]:
    """Restore some galaxies by the settings and the prior of the run; NaN where no error is known.

    With a prior of the run galaxies are independent, and go a block at a time.
    """
    from psfscale.deconvolve.learnt.prior import prior_of_numbers, shared_prior
    from psfscale.deconvolve.restore import deconvolve

    galaxies = group_of(ccd, "galaxies")
    prior = shared_prior(ccd["prior/sums"].values) if "prior/sums" in ccd else None
    prior = prior_of_numbers(context.given_prior) if context.given_prior else prior
    size = len(chosen) if prior is None else BLOCK
    parts = [
        deconvolve(
            galaxies["image"].values[block],
            restoring_psfs(ccd, block, context),
            weight=galaxies["weight"].values[block],
            prior=prior,
            settings=context.restore_settings,
        )
        for block in (chosen[i : i + size] for i in range(0, len(chosen), size))
    ]
    errors = [np.full_like(p.image, np.nan) if p.error is None else p.error for p in parts]
    return {
        "image": np.concatenate([part.image for part in parts]),
        "error": np.concatenate(errors),
        "chi2": np.concatenate([part.chi2 for part in parts]),
        "flags": np.concatenate([part.flags for part in parts]),
    }
