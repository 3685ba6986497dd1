"""psfscale: PSF models, PSFs at every galaxy and their quality, at survey scale.

Import stays light: names below load their room on first use.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psfscale import (
        arrays,
        config,
        drop_in,
        errors,
        ingest,
        kernels,
        metrics,
        models,
        pipeline,
        quality,
        report,
        simulate,
        store,
        survey,
    )
    from psfscale.arrays import FieldPoints, PixelGrid, StarBatch
    from psfscale.deconvolve.restore import deconvolve
    from psfscale.models.rca.model import RCA
    from psfscale.models.sprite.model import SPRITE
    from psfscale.models.wavediff.model import WaveDiff
    from psfscale.pipeline.results.run import open_run
    from psfscale.store.saved_models import load_model, save_model
    from psfscale.store.stacks import read_points, read_stars

__version__ = version("psfscale")

_HOMES = {
    "FieldPoints": "psfscale.arrays",
    "PixelGrid": "psfscale.arrays",
    "StarBatch": "psfscale.arrays",
    "RCA": "psfscale.models.rca.model",
    "SPRITE": "psfscale.models.sprite.model",
    "WaveDiff": "psfscale.models.wavediff.model",
    "load_model": "psfscale.store.saved_models",
    "open_run": "psfscale.pipeline.results.run",
    "save_model": "psfscale.store.saved_models",
    "read_points": "psfscale.store.stacks",
    "read_stars": "psfscale.store.stacks",
}

_ROOMS = (
    "arrays",
    "config",
    "deconvolve",
    "drop_in",
    "errors",
    "ingest",
    "kernels",
    "metrics",
    "models",
    "pipeline",
    "quality",
    "report",
    "simulate",
    "store",
    "survey",
)
"""Modules below this one; `deconvolve` can be called too."""

__all__ = [
    "RCA",
    "SPRITE",
    "FieldPoints",
    "PixelGrid",
    "StarBatch",
    "WaveDiff",
    "__version__",
    "arrays",
    "config",
    "deconvolve",
    "drop_in",
    "errors",
    "ingest",
    "kernels",
    "load_model",
    "metrics",
    "models",
    "open_run",
    "pipeline",
    "quality",
    "read_points",
    "read_stars",
    "report",
    "save_model",
    "simulate",
    "store",
    "survey",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"psfscale.{name}")
    if name not in _HOMES:
        msg = f"module 'psfscale' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
