"""The PSF at every galaxy of a CCD, and the stars of a CCD against its PSF field."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from psfscale.arrays import ObjectFlag, Role
from psfscale.errors import PsfCheckError
from psfscale.pipeline.stages.ccd import (
    extrapolation,
    group_of,
    pad,
    points_of,
    stored_model,
    without_left_out,
)

if TYPE_CHECKING:
    from psfscale.pipeline.stages.context import RunContext

PREDICT_BLOCK = 512
"""PSFs drawn in one call of a model: bounds the memory of a CCD with many galaxies."""


def draw_psfs(ccd: xr.Dataset, context: RunContext) -> xr.Dataset:
    """Draw the PSF at every galaxy, at its spectrum; flag those outside the stars' range.

    Raises
    ------
    PsfCheckError
        A drawn PSF is not finite.
    """
    galaxies = group_of(ccd, "galaxies")
    chosen = np.flatnonzero(galaxies["role"].values != Role.EMPTY)
    model, grid = stored_model(ccd, context), context.psf_grid
    psf = np.full((galaxies.sizes["galaxy"], *grid.shape), np.nan, np.float32)
    for start in range(0, chosen.size, PREDICT_BLOCK):
        part = chosen[start : start + PREDICT_BLOCK]
        psf[part] = model.predict(points_of(galaxies, part), grid)
    bad = chosen[~np.isfinite(psf[chosen]).all(axis=(1, 2))]
    if bad.size:
        msg = f"the PSF of {bad.size} galaxies is not finite (first: {bad[:5].tolist()})"
        raise PsfCheckError(msg)
    flags = extrapolation(ccd, galaxies["x"].values[chosen], galaxies["y"].values[chosen], context)
    return xr.Dataset(
        {
            "galaxies/psf": (("galaxy", "galaxies.psf_y", "galaxies.psf_x"), psf),
            "galaxies/flags": ("galaxy", pad(flags, chosen, galaxies.sizes["galaxy"])),
        }
    )


def measure_stars(ccd: xr.Dataset, context: RunContext) -> xr.Dataset:
    """Measure all stars of the CCD against its model."""
    from psfscale.metrics import measure_ccd

    detector = context.instrument.detector
    stars = without_left_out(group_of(ccd, "stars"))
    measured = measure_ccd(
        stars.drop_vars("fit_flags"),
        stored_model(ccd, context),
        fit_flags=stars["fit_flags"].values,
        pixel_scale=detector.pixel_scale,
        ccd_shape=(detector.rows, detector.columns),
        grid=context.config.metrics.grid,
    )
    left_out = stars["fit_flags"].values & np.uint32(ObjectFlag.LEFT_OUT)
    measured["flags"] = measured["flags"] | left_out.astype(np.uint32)
    return xr.Dataset({_metric_path(v): v.variable for v in measured.values()})


def _metric_path(metric: xr.DataArray) -> str:
    """Group of a metric: per star where it has the axis, else per CCD."""
    name = str(metric.name)
    return name if "/" in name else f"{'stars' if 'star' in metric.dims else 'ccds'}/{name}"
