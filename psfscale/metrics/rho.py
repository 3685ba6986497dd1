"""ρ statistics: how the errors of a PSF model correlate over the sky.

Conventions of Rowe (2010, MNRAS 404, 350) and Jarvis et al. (2016, MNRAS 460, 2245), as Piff
measures them, on stars the fit has not seen, with reduced shears g = e / (1 + √(1 − |e|²)) of
star and model, δg = g − g_model and t = (R² − R²_model) / R²:

==  =======================
ρ₁  ⟨δg* δg⟩
ρ₂  ⟨g* δg⟩
ρ₃  ⟨(g t)* (g t)⟩
ρ₄  ⟨δg* (g t)⟩
ρ₅  ⟨g* (g t)⟩
==  =======================

Pairs lie within one exposure, so exposures add: sums over pairs are what is kept until the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from psfscale.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

PAIRS = {"rho1": ("dg", "dg"), "rho2": ("g", "dg"), "rho3": ("gt", "gt"), "rho4": ("dg", "gt"),
         "rho5": ("g", "gt")}  # fmt: skip
"""Which two quantities each statistic correlates."""


def rho_statistics(
    exposures: Iterable[pd.DataFrame],
    *,
    min_separation: float = 0.5,
    max_separation: float = 100.0,
    n_bins: int = 20,
    bin_slop: float | None = None,
) -> xr.Dataset:
    """ρ₁ to ρ₅ of the reserved stars, as functions of their separation.

    Parameters
    ----------
    exposures : the stars of one exposure each, as `psfscale.metrics.exposure_tables` gives them
    min_separation, max_separation : range of the logarithmic bins [arcmin]
    n_bins : their number
    bin_slop : part of a bin by which a pair may be misplaced, for speed; TreeCorr's if not given

    Returns
    -------
    xarray.Dataset
        ``rho1`` ... ``rho5`` over ``bin``, the real part ξ₊, NaN where there is no pair;
        ``separation`` [arcmin], mean of the pairs; ``n_pairs``

    Raises
    ------
    InputError
        No exposure has two measured reserved stars with a position on the sky, or TreeCorr is
        not installed.
    """
    treecorr = _treecorr()
    options: dict[str, Any] = {
        "min_sep": min_separation,
        "max_sep": max_separation,
        "nbins": n_bins,
    }
    options |= {"bin_slop": bin_slop, "num_threads": 1}
    found = {name: treecorr.GGCorrelation(sep_units="arcmin", **options) for name in PAIRS}
    n_used = 0
    for table in exposures:
        catalogues = _catalogues(treecorr, table)
        if catalogues is None:
            continue
        for name, (one, other) in PAIRS.items():
            _add(found[name], catalogues[one], catalogues[other], first=n_used == 0)
        n_used += 1
    if not n_used:
        msg = "no exposure has two measured reserved stars with right ascension and declination"
        raise InputError(msg)
    for correlation in found.values():
        correlation.finalize(0.0, 0.0)
    return _dataset(found)


def _treecorr() -> Any:
    try:
        import treecorr
    except ImportError as error:
        msg = "ρ statistics need TreeCorr: pip install 'psfscale[rho]'"
        raise InputError(msg) from error
    return treecorr


def _catalogues(treecorr: Any, table: pd.DataFrame) -> dict[str, Any] | None:
    """The three quantities of an exposure's reserved stars; None where they make no pair."""
    star = _reduced(table["e1_star"], table["e2_star"])
    model = _reduced(table["e1_model"], table["e2_model"])
    size = table["R2_star"].to_numpy(np.float64)
    t = (size - table["R2_model"].to_numpy(np.float64)) / size
    place = table[["ra", "dec"]].to_numpy(np.float64)
    use = table["reserved"].to_numpy(bool) & np.isfinite(star + model + t + place.sum(axis=1))
    if use.sum() < 2:
        return None
    values = {"g": star, "dg": star - model, "gt": star * t}
    return {
        name: treecorr.Catalog(
            ra=place[use, 0],
            dec=place[use, 1],
            ra_units="deg",
            dec_units="deg",
            g1=value[use].real,
            g2=value[use].imag,
        )
        for name, value in values.items()
    }


def _reduced(e1: pd.Series, e2: pd.Series) -> np.ndarray:
    e = e1.to_numpy(np.float64) + 1j * e2.to_numpy(np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(e / (1 + np.sqrt(1 - np.abs(e) ** 2)))


def _add(correlation: Any, one: Any, other: Any, *, first: bool) -> None:
    """Add the pairs of an exposure."""
    second = None if one is other else other
    correlation.process(one, second, initialize=first, finalize=False)


def _dataset(found: dict[str, Any]) -> xr.Dataset:
    (first, *_) = found.values()
    auto = found["rho1"]
    has = auto.npairs > 0
    units = {"units": "1"}
    arrays: dict[str, Any] = {
        name: ("bin", np.where(c.npairs > 0, c.xip, np.nan), {**units, "long_name": _meaning(name)})
        for name, c in found.items()
    }
    separation = np.where(has, auto.meanr, first.rnom)
    told = {"units": "arcmin", "long_name": "mean separation of the pairs"}
    arrays["separation"] = ("bin", separation, told)
    arrays["n_pairs"] = ("bin", auto.npairs.astype(np.int64), {**units, "long_name": "pairs"})
    return xr.Dataset(arrays)


def _meaning(name: str) -> str:
    one, other = PAIRS[name]
    return f"⟨{one}* {other}⟩ of reserved stars, real part"
