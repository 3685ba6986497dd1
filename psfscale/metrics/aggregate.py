"""From stars and CCDs to exposures and the survey.

Counts add. A bias, an rms and the count they rest on merge exactly (n·bias and n·rms² add),
as do a relative pixel error and its denominator (rel_rmse² × star_power adds). A median
does not merge: an exposure's is taken over its stars, the survey's over its exposures.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from psfscale.arrays import STANDS_OUT, Role
from psfscale.metrics.star import FRAMES

if TYPE_CHECKING:
    from jaxtyping import Float

COUNTS = ("n_fit", "n_clipped", "n_reserved", "n_flagged", "n_measured", "n_measured_all")
_PIXEL_ERRORS = ("model_rel_rmse", "noise_rel_rmse", "mean_star_rel_rmse")
_PLAIN_ERROR = ("model_rel_rmse_all", "star_power_all")
"""Figures ``*_all`` are missing in runs that did not flag reserved stars."""
_SHAPES = tuple((name, frame) for frame in FRAMES for name in ("e1", "e2", "R2"))
EXPOSURES_AT_A_TIME = 1024
"""As the arrays over CCDs are stored."""
_MODEL_SHAPES = tuple(f"psf_{name}{frame}" for name, frame in _SHAPES)
"""Runs of schema version 1 have no shapes along the sky's axes, and their aggregates have none."""


def aggregate(
    stars: xr.Dataset, survey_stars: xr.Dataset, ccds: xr.Dataset
) -> dict[str, xr.Dataset]:
    """Metrics of every exposure and of the survey, from reserved stars alone.

    Stars that stand out (`STANDS_OUT`) count in the figures ``*_all`` alone. Every measured
    reserved star weighs the same in the biases and rms of e1, e2 and R²; in the relative pixel
    errors it weighs as its squared norm, so bright stars lead. The
    model's own shape weighs every CCD the same. Exposures are read block by block; the same
    stores give the same numbers, however often this runs.

    Parameters
    ----------
    stars : group ``stars`` of the run store, (exposure, ccd, star)
    survey_stars : group ``stars`` of the survey store, of which ``role`` is read
    ccds : group ``ccds`` of the run store, (exposure, ccd)

    Returns
    -------
    dict
        ``exposures``: arrays over exposure; ``summary``: scalars.
    """
    n = stars.sizes["exposure"]
    flat = ccds[[name for name in ccds if ccds[name].dims == ("exposure", "ccd")]]
    rows = []
    for start in range(0, n, EXPOSURES_AT_A_TIME):
        block = slice(start, start + EXPOSURES_AT_A_TIME)
        of_ccds = {str(name): values.values for name, values in flat.isel(exposure=block).items()}
        for i in range(start, min(block.stop, n)):
            reserved = survey_stars["role"][i].values == Role.RESERVED
            reserved &= (stars["flags"][i].values & np.uint32(STANDS_OUT)) == 0
            chi2 = stars["chi2"][i].values[reserved]
            rows.append(_one_exposure({k: v[i - start] for k, v in of_ccds.items()}, chi2))
    none = _one_exposure({str(name): np.zeros(0) for name in flat}, np.zeros(0))
    exposures = xr.Dataset(
        {
            name: ("exposure", np.array([row[name] for row in rows], dtype=value.dtype))
            for name, value in none.items()
        }
    )
    return {"exposures": exposures, "summary": summarise(exposures)}


def summarise(exposures: xr.Dataset) -> xr.Dataset:
    """The survey's scalars from its exposures' arrays; blocks of exposures concatenate."""
    merged = _merged({str(name): exposures[name].values for name in exposures})
    merged["n_ccds"] = exposures["n_ccds"].values.sum()
    merged["n_exposures"] = np.int64((exposures["n_ccds"].values > 0).sum())
    merged["chi2_median"] = _median(exposures["chi2_median"].values)
    for name in filter(exposures.__contains__, _MODEL_SHAPES):
        merged[name] = _mean(exposures[name].values, exposures["n_ccds"].values)
    return xr.Dataset({name: ((), value) for name, value in merged.items()})


def _one_exposure(
    values: dict[str, np.ndarray], chi2: Float[np.ndarray, " reserved"]
) -> dict[str, np.integer | np.floating]:
    found = _merged(values)
    measured = values["n_fit"] + values["n_reserved"] > 0
    found["n_ccds"] = np.int64(measured.sum())
    found["chi2_median"] = _median(chi2)
    for name in filter(values.__contains__, _MODEL_SHAPES):
        found[name] = _mean(values[name], measured)
    return found


def _merged(parts: dict[str, np.ndarray]) -> dict[str, np.integer | np.floating]:
    """What adds, in counts and sums, put back as counts, ratios, biases and rms."""
    merged: dict[str, np.integer | np.floating] = {
        name: np.int64(parts[name].sum()) for name in COUNTS if name in parts
    }
    merged["clipped_fraction"] = _mean(parts["clipped_fraction"], parts["n_fit"])
    for name, power in (*((n, "star_power") for n in _PIXEL_ERRORS), _PLAIN_ERROR):
        if name in parts:
            square = parts[name].astype(np.float64) ** 2
            merged[name] = np.sqrt(_mean(square, parts[power]))
            merged[power] = np.float64(np.nansum(parts[power], dtype=np.float64))
    for (name, frame), which in product(_SHAPES, ("", "_all")):
        bias, rmse = f"{name}_bias{frame}{which}", f"{name}_rmse{frame}{which}"
        if bias in parts:
            weight = parts[f"n_measured{which}"]
            merged[bias] = _mean(parts[bias], weight)
            merged[rmse] = np.sqrt(_mean(parts[rmse].astype(np.float64) ** 2, weight))
    return merged


def _mean(values: np.ndarray, weights: np.ndarray) -> np.float64:
    """Weighted mean of what is finite; NaN where nothing is."""
    use = np.isfinite(values) & (weights > 0)
    if not use.any():
        return np.float64(np.nan)
    return np.float64(np.average(values[use].astype(np.float64), weights=weights[use]))


def _median(values: np.ndarray) -> np.float64:
    finite = values[np.isfinite(values)]
    return np.float64(np.median(finite)) if finite.size else np.float64(np.nan)
