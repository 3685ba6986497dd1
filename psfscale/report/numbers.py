"""The numbers of the page, as words a reader can quote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr

_WORST = 10
_FWHM_PER_R = 2 * np.sqrt(np.log(2))
"""FWHM = 2 √(2 ln 2) σ with σ² = R²/2."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the headline table."""

    what: str
    value: str
    remark: str


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant digits; a dash where there is none."""
    return "–" if not np.isfinite(value) else f"{value:#.{digits}g}".rstrip(".").replace("-", "−")


def _signed(value: float, error: float) -> str:
    if not np.isfinite(value):
        return "–"
    digits = max(1 - int(np.floor(np.log10(error))), 0) if error > 0 else 4
    return f"{value:+.{digits}f} ± {error:.{digits}f}".replace("-", "−")


def _value(summary: xr.Dataset, name: str) -> float:
    return float(summary[name])


def beyond_noise(total: float, noise: float) -> float:
    """Relative pixel error left when the noise's share is taken out in quadrature."""
    return float(np.sqrt(max(total**2 - noise**2, 0.0))) if np.isfinite(total) else np.nan


def tiles(summary: xr.Dataset) -> list[tuple[str, str]]:
    """The few numbers that say what the run is."""
    fwhm = _FWHM_PER_R * np.sqrt(_value(summary, "psf_R2"))
    return [
        (f"{int(summary['n_exposures']):,}", "exposures"),
        (f"{int(summary['n_ccds']):,}", "CCDs with metrics"),
        (f"{int(summary['n_fit']):,}", "stars fitted"),
        (f"{100 * _value(summary, 'clipped_fraction'):.1f} %", "of them clipped")
        if int(summary["n_fit"])
        else ("–", "clipped"),
        (f"{int(summary['n_reserved']):,}", _reserved(summary)),
        (f"{number(fwhm)}″" if np.isfinite(fwhm) else "–", "mean PSF FWHM"),
    ]


def _reserved(summary: xr.Dataset) -> str:
    """What the number of reserved stars is of; runs of earlier versions flagged none."""
    n = int(summary["n_flagged"]) if "n_flagged" in summary else 0
    return f"stars reserved, {n:,} of them flagged" if n else "stars reserved"


def headline(summary: xr.Dataset) -> list[Row]:
    """Held-out errors of the model, with their baseline and floor."""
    model, mean, noise = (
        _value(summary, f"{name}_rel_rmse") for name in ("model", "mean_star", "noise")
    )
    rows = [
        Row(
            what="Relative pixel error, model",
            value=number(model),
            remark=f"noise alone gives {number(noise)}; beyond the noise "
            f"{number(beyond_noise(model, noise))}",
        ),
        Row(
            what="Relative pixel error, mean star of the CCD",
            value=number(mean),
            remark=f"beyond the noise {number(beyond_noise(mean, noise))}",
        ),
        Row(
            what="Reduced χ², median",
            value=number(_value(summary, "chi2_median")),
            remark="1 where model and weights are right",
        ),
    ]
    n = max(int(summary["n_measured"]), 1)
    for name, label in (("e1", "δe₁"), ("e2", "δe₂"), ("R2", "δR²/R²")):
        bias, rms = _value(summary, f"{name}_bias"), _value(summary, f"{name}_rmse")
        error = float(np.sqrt(max(rms**2 - bias**2, 0.0) / n)) if np.isfinite(rms) else 0.0
        rows.append(
            Row(
                what=f"{label}, mean of star − model",
                value=_signed(bias, error),
                remark=f"rms {number(rms)} a star, its noise included",
            )
        )
    return rows


def worst_ccds(tree: xr.DataTree) -> list[dict[str, str]]:
    """CCDs where the model is furthest from its stars for their noise, worst first."""
    ccds = tree["ccds"].dataset
    chi2 = ccds["chi2_median"].values
    finite = int(np.isfinite(chi2).sum())
    if finite < 2:
        return []
    order = np.argsort(np.where(np.isfinite(chi2), -chi2, np.inf), axis=None)
    exposures, ids = tree.dataset["exposure"].values, tree.dataset["ccd"].values
    rows = []
    for flat in order[: min(_WORST, finite)]:
        exposure, ccd = np.unravel_index(flat, chi2.shape)
        one = {
            name: float(ccds[name].values[exposure, ccd])
            for name in ("model_rel_rmse", "mean_star_rel_rmse", "n_reserved", "R2_bias")
        }
        rows.append(
            {
                "exposure": str(exposures[exposure]),
                "ccd": str(ids[ccd]),
                "chi2": number(float(chi2[exposure, ccd])),
                "model": number(one["model_rel_rmse"]),
                "mean": number(one["mean_star_rel_rmse"]),
                "R2": number(one["R2_bias"], 2),
                "n": str(int(one["n_reserved"])),
            }
        )
    return rows


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def cost_rows(costs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """What the units of each stage took."""
    return [
        {
            "stage": stage,
            "units": f"{cost['n_units']:,}",
            "attempts": f"{cost['n_attempts']:,}",
            "each": _duration(cost["seconds"] / max(cost["n_units"], 1)),
            "cpu": _duration(cost["cpu_seconds"]),
            "own": f"{100 * cost['stage_seconds'] / max(cost['cpu_seconds'], 1e-9):.0f} %",
            "memory": f"{cost['peak_memory'] / 2**20:,.0f} MiB",
            "rate": _rate(cost),
        }
        for stage, cost in costs.items()
    ]


def _rate(cost: Mapping[str, Any]) -> str:
    """Stars or galaxies a CPU second; a dash where they were not counted."""
    if not (cost.get("n_objects") and cost["cpu_seconds"]):
        return "–"
    return f"{number(cost['n_objects'] / cost['cpu_seconds'])} {cost['objects']}"


def host_rows(hosts: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """What each host gave."""
    return [
        {
            "host": host,
            "units": f"{cost['n_units']:,}",
            "cpu": _duration(cost["cpu_seconds"]),
            "memory": f"{cost['peak_memory'] / 2**20:,.0f} MiB",
            "devices": ", ".join(cost["devices"]),
        }
        for host, cost in hosts.items()
    ]
