"""Stages that cost nothing, so that what a run costs is the pipeline's own.

Importing `install` on the path of a process (``sitecustomize``) makes them its stages too.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import xarray as xr

from psfscale import models
from psfscale.models.base import FitReport
from psfscale.models.rca.model import RCA
from psfscale.models.rca.settings import RCASettings
from psfscale.store.schema import RUN_SCHEMA


class Blank:
    """A field of RCA's shapes and nothing in it."""

    name = "rca"

    def __init__(self, settings: RCASettings) -> None:
        self.settings = settings
        self.stamp_shape = (0, 0)

    @classmethod
    def state_arrays(cls, settings, stamp_shape):
        return RCA.state_arrays(settings, stamp_shape)

    def fit(self, stars):
        self.stamp_shape = stars.stamp_shape
        n = len(stars)
        zero = np.zeros(n, np.float32)
        return FitReport(
            used=np.ones(n, bool),
            flux=zero,
            shift_x=zero,
            shift_y=zero,
            flux_error=zero,
            shift_x_error=zero,
            shift_y_error=zero,
            chi2=zero,
            reduced_chi2=1.0,
            n_iterations=1,
            converged=True,
        )

    def state(self):
        arrays = self.state_arrays(self.settings, self.stamp_shape)
        return {a.name: _noise(a.name, a.shape, a.dtype) for a in arrays}


@cache
def _noise(name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Noise; of images beyond the tenth component none, as where RCA keeps ten."""
    values = np.random.default_rng(len(name)).normal(size=shape).astype(dtype)
    if name == "eigen_psf":
        values[10:] = np.nan
    return values


def blank_metrics(_ccd, context):
    """All that the metrics stage returns, drawn rather than measured."""
    found = {}
    sizes = context.sizes
    for spec in (s for s in RUN_SCHEMA if s.stage == "metrics"):
        shape = spec.shape(sizes)[2:]
        values = _noise(spec.name, shape, spec.dtype)
        dims = tuple(d if d == "star" else f"{spec.group}.{d}" for d in spec.dims[2:])
        found[spec.path] = (dims, values)
    return xr.Dataset(found)


def install() -> None:
    """Put the blank stages in the place of the real ones, in this process."""
    from psfscale import metrics
    from psfscale.pipeline.stages import registry as stages

    models.MODELS["rca"] = "scale_blank:Blank"
    models.SETTINGS["rca"] = RCASettings
    metrics.check_psf = lambda *_, **__: None
    stages.measure_stars = blank_metrics
