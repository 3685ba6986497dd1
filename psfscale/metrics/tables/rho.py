"""ρ statistics: how the errors of a PSF model correlate over the sky.

Conventions of Rowe (2010, MNRAS 404, 350) and Jarvis et al. (2016, MNRAS 460, 2245), as Piff
measures them, on stars the fit has not seen, with reduced shears g = e / (1 + √(1 − |e|²)) of
star and model, δg = g − g_model and t = (R² − R²_model) / R², all along the sky's axes (u towards
west, v towards north, as TreeCorr has them), so that CCDs may be turned or mirrored to each other:

==  =======================
ρ₁  ⟨δg* δg⟩
ρ₂  ⟨g* δg⟩
ρ₃  ⟨(g t)* (g t)⟩
ρ₄  ⟨δg* (g t)⟩
ρ₅  ⟨g* (g t)⟩
==  =======================

Pairs lie within one exposure, so exposures add: sums over pairs are what is kept until the end.
Of an exposure with the sum x over n pairs are kept x, n, x², xn and n²: the mean is R = Σx / Σn,
and its standard error that of a ratio, from the scatter of exposures, √Σ(x − R n)² / Σn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from psfscale.errors import InputError
from psfscale.metrics.tables.exact import joined, split
from psfscale.metrics.tables.tally import added

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd

    Columns = Mapping[str, Any] | pd.DataFrame

PAIRS = {"rho1": ("dg", "dg"), "rho2": ("g", "dg"), "rho3": ("gt", "gt"), "rho4": ("dg", "gt"),
         "rho5": ("g", "gt")}  # fmt: skip
"""Which two quantities each statistic correlates."""
_ARCMIN = np.pi / 180 / 60


@dataclass(frozen=True, kw_only=True)
class Separations:
    """Logarithmic bins of the separation of two stars.

    Attributes
    ----------
    smallest, largest : range [arcmin]
    n_bins : their number
    slop : part of a bin by which a pair may be misplaced, for speed; TreeCorr's if None
    """

    smallest: float = 0.5
    largest: float = 100.0
    n_bins: int = 20
    slop: float | None = None

    @property
    def centres(self) -> np.ndarray:
        """Middles of the bins, in the logarithm [arcmin]."""
        at = (np.arange(self.n_bins) + 0.5) / self.n_bins
        return np.asarray(self.smallest * (self.largest / self.smallest) ** at)

    def correlation(self, treecorr: Any) -> Any:
        """A correlation of TreeCorr over these bins, in one thread."""
        return treecorr.GGCorrelation(
            min_sep=self.smallest,
            max_sep=self.largest,
            nbins=self.n_bins,
            sep_units="arcmin",
            bin_slop=self.slop,
            num_threads=1,
        )


def rho_statistics(
    exposures: Iterable[Columns],
    *,
    min_separation: float = 0.5,
    max_separation: float = 100.0,
    n_bins: int = 20,
    bin_slop: float | None = None,
) -> xr.Dataset:
    """ρ₁ to ρ₅ of the reserved stars, as functions of their separation.

    Parameters
    ----------
    exposures : the stars of one exposure each, as `psfscale.metrics.exposure_tables` gives them;
        of ``e1_star`` and ``e1_star_sky`` the latter is taken, where there is one
    min_separation, max_separation : range of the logarithmic bins [arcmin]
    n_bins : their number
    bin_slop : part of a bin by which a pair may be misplaced, for speed; TreeCorr's if not given

    Returns
    -------
    xarray.Dataset
        ``rho1`` ... ``rho5`` over ``bin``, the real part ξ₊, NaN where there is no pair, and
        ``rho1_error`` ..., NaN where there is one exposure alone; ``separation`` [arcmin], mean
        of the pairs; ``n_pairs``

    Raises
    ------
    InputError
        No exposure has two measured reserved stars with a position on the sky, or TreeCorr is
        not installed.
    """
    bins = Separations(
        smallest=min_separation, largest=max_separation, n_bins=n_bins, slop=bin_slop
    )
    total: dict[str, np.ndarray] = {}
    for columns in exposures:
        total = added(total, pair_sums(columns, bins))
    if not total:
        msg = "no exposure has two measured reserved stars with right ascension and declination"
        raise InputError(msg)
    return rho_of_sums(total, bins)


def pair_sums(columns: Columns, bins: Separations) -> dict[str, np.ndarray]:
    """Sums over the pairs of one exposure, which add exactly; none where there is no pair.

    Raises
    ------
    InputError
        TreeCorr is not installed.
    """
    treecorr = _treecorr()
    use = _used(columns)
    if use.sum() < 2:
        return {}
    catalogues = _catalogues(treecorr, columns, use)
    terms, distance = [], np.zeros(bins.n_bins)
    for one, other in PAIRS.values():
        found = bins.correlation(treecorr)
        second = None if one == other else catalogues[other]
        found.process(catalogues[one], second, initialize=True, finalize=False)
        x, n = np.array(found.xip), np.array(found.weight)
        terms.append([x, n, x * x, x * n, n * n])
        distance = distance if distance.any() else np.array(found.meanr) / _ARCMIN
    astray = use & ~np.asarray(columns["oriented"], bool) if "oriented" in columns else use & False
    arrays: dict[str, np.ndarray] = {
        "rho/exposures": np.ones(1, np.int64),
        "rho/unoriented": np.array([astray.sum()], np.int64),
    }
    for name, values in (("terms", np.array(terms)), ("distance", distance)):
        arrays[f"rho/{name}/high"], arrays[f"rho/{name}/low"] = split(values)
    return arrays


def rho_of_sums(arrays: Mapping[str, np.ndarray], bins: Separations) -> xr.Dataset:
    """ρ₁ to ρ₅ from the sums of all exposures, as `rho_statistics` gives them."""
    terms = joined(arrays["rho/terms/high"], arrays["rho/terms/low"])
    distance = joined(arrays["rho/distance/high"], arrays["rho/distance/low"])
    n_exposures = int(arrays["rho/exposures"][0])
    n_pairs = terms[0, 1]
    found: dict[str, Any] = {}
    for name, (x, n, xx, xn, nn) in zip(PAIRS, terms, strict=True):
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = x / n
            scatter = np.maximum(xx - 2 * mean * xn + mean**2 * nn, 0) * _freed(n_exposures)
            error = np.sqrt(scatter) / n
        found[name] = ("bin", mean, {"units": "1", "long_name": _meaning(name)})
        told = {"units": "1", "long_name": f"standard error of {name}, from exposures' scatter"}
        found[f"{name}_error"] = ("bin", error, told)
    separation = np.divide(distance, n_pairs, out=bins.centres, where=n_pairs > 0)
    told = {"units": "arcmin", "long_name": "mean separation of the pairs"}
    found["separation"] = ("bin", separation, told)
    found["n_pairs"] = ("bin", n_pairs.astype(np.int64), {"units": "1", "long_name": "pairs"})
    n = int(arrays["rho/unoriented"][0])
    attributes: dict[str, Any] = {
        "axes": "shapes along the sky's axes, u towards west and v towards north",
        "n_unoriented": n,
        "unoriented": "stars on CCDs without a WCS, whose shapes are taken along their pixel axes",
    }
    return xr.Dataset(found, attrs=attributes)


def _freed(n: int) -> float:
    """Makes up for the mean, which is of the same n exposures: n / (n − 1)."""
    return n / (n - 1) if n > 1 else np.nan


def _treecorr() -> Any:
    try:
        import treecorr
    except ImportError as error:
        msg = "ρ statistics need TreeCorr: pip install 'psfscale[rho]'"
        raise InputError(msg) from error
    return treecorr


def _used(columns: Columns) -> np.ndarray:
    """(star,) whether a star is reserved, measured and on the sky."""
    known = np.isfinite(sum(_along_sky(columns, name) for name in _NEEDED))
    return np.asarray(columns["reserved"], bool) & known


def _catalogues(treecorr: Any, columns: Columns, use: np.ndarray) -> dict[str, Any]:
    """The three quantities of the stars in use."""
    of = {name: _along_sky(columns, name)[use] for name in _NEEDED}
    star = _reduced(of["e1_star"] + 1j * of["e2_star"])
    model = _reduced(of["e1_model"] + 1j * of["e2_model"])
    t = (of["R2_star"] - of["R2_model"]) / of["R2_star"]
    values = {"g": star, "dg": star - model, "gt": star * t}
    return {
        name: treecorr.Catalog(
            ra=of["ra"],
            dec=of["dec"],
            ra_units="deg",
            dec_units="deg",
            g1=value.real,
            g2=value.imag,
        )
        for name, value in values.items()
    }


_NEEDED = ("e1_star", "e2_star", "e1_model", "e2_model", "R2_star", "R2_model", "ra", "dec")


def _along_sky(columns: Columns, name: str) -> np.ndarray:
    """A column in its form along the sky's axes, where it has one."""
    sky = f"{name}_sky"
    return np.asarray(columns[sky if sky in columns else name], np.float64)


def _reduced(e: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.asarray(e / (1 + np.sqrt(1 - np.abs(e) ** 2)))


def _meaning(name: str) -> str:
    one, other = PAIRS[name]
    return f"⟨{one}* {other}⟩ of reserved stars, real part"
