"""How good a PSF model is on stars it has not seen: per star, CCD, exposure and survey.

Ellipticities are distortions e = (Mxx − Myy + 2iMxy)/(Mxx + Myy), sizes R² = Mxx + Myy in
arcsec², both from adaptive (HSM) moments; residuals are star − model. What each number
means, and on what evidence it was chosen, stands in ``docs/metrics.md``.
"""

from __future__ import annotations

from psfscale.metrics.aggregate import aggregate
from psfscale.metrics.ccd import measure_ccd
from psfscale.metrics.check import check_psf
from psfscale.metrics.field import PsfField
from psfscale.metrics.moments import Moments, adaptive_moments
from psfscale.metrics.table import exposure_tables, metrics_table
from psfscale.metrics.tables.rho import rho_statistics

__all__ = [
    "Moments",
    "PsfField",
    "adaptive_moments",
    "aggregate",
    "check_psf",
    "exposure_tables",
    "measure_ccd",
    "metrics_table",
    "rho_statistics",
]
