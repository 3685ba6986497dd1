"""Quality checks of a fit and of the stars it was given.

A check that trips is a `Doubt`: its name in the ``quality`` section of a run file, and a sentence
with the value found, the limit, and a likely cause. Each limit and where it comes from stands in
``docs/quality.md``.
"""

from __future__ import annotations

from psfscale.quality.checks import Doubt, fit_doubts, outside_doubt, position_doubt, stamp_doubts
from psfscale.quality.phases import carried_upsampling
from psfscale.quality.stamps import StampMeasures, centroids, variance_ratio

__all__ = [
    "Doubt",
    "StampMeasures",
    "carried_upsampling",
    "centroids",
    "fit_doubts",
    "outside_doubt",
    "position_doubt",
    "stamp_doubts",
    "variance_ratio",
]
