"""Measure the stars of one CCD against its model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

    from psfscale.metrics.field import PsfField


def measure_ccd(
    stars: xr.Dataset,
    model: PsfField,
    *,
    fit_flags: np.ndarray,
    pixel_scale: float,
    ccd_shape: tuple[int, int],
    grid: int,
) -> xr.Dataset:
    """All metrics of one CCD, named as the last part of their paths in the run store.

    Parameters
    ----------
    stars : one CCD of the survey store's ``stars`` group: ``image``, ``weight``
        (star, y, x), ``x``, ``y``, ``role`` (star,), and ``sed`` with ``wavelength`` where
        known; entries of role 0 are padding
    model : fitted to the stars of role fit
    fit_flags : (star,) bits set by the fit; OUTLIER marks clipped stars
    pixel_scale : [arcsec]
    ccd_shape : (y, x) [pixel]
    grid : points along each side of the CCD at which the model's own shape is averaged

    Returns
    -------
    xr.Dataset
        Arrays over ``star`` belong to the group ``stars``; scalars, and the stacks over
        ``y, x``, to the group ``ccds``. What cannot be measured is NaN and has its flag.
    """
    raise NotImplementedError
