"""Figures of the tables and maps that are tallied over all exposures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import MaxNLocator

from psfscale.report.drawing import ACCENT, DIVERGING, SECOND, figure, ink
from psfscale.report.figures import RESIDUALS

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST = 3
"""Objects of which a mean is drawn."""
_ENOUGH = 30
"""Stars that a cell of the map should hold."""
_COARSEST = 8
_GALAXIES = (
    ("flux_residual", "restored / catalogue flux − 1"),
    ("R2", "R² [arcsec²]"),
    ("chi2", "χ²"),
)
_RHOS = (("rho1", "rho3", "rho4"), ("rho2", "rho5"))
_NAMES = {f"rho{k}": f"ρ{sub}" for k, sub in zip(range(1, 6), "₁₂₃₄₅", strict=True)}
_COLOURS = (ACCENT, SECOND, "#5b8c3a")


def residuals_along(table: xr.Dataset, dim: str, label: str) -> Figure:
    """Mean residuals with standard errors along `dim`; below, how far single stars scatter."""
    drawn = figure(8.4, 3.9)
    panels = drawn.subplots(2, 3, sharex=True)
    for (above, below), (name, symbol) in zip(panels.T, RESIDUALS, strict=True):
        one = table.sel(quantity=f"{name}_residual")
        use = one["n"].values >= LEAST
        at, mean = one[dim].values[use], one["mean"].values[use]
        error = (one["sd"].values / np.sqrt(np.maximum(one["n"].values, 1)))[use]
        above.errorbar(at, mean, yerr=error, color=ACCENT, fmt="o-", ms=3, elinewidth=0.8, lw=0.9)
        above.axhline(0, color=ink(), lw=0.6, ls=":")
        above.set_title(f"{symbol} (star − model)")
        low, high = (one["quantile"].sel(quantile_at=p).values[use] for p in (0.16, 0.84))
        below.plot(at, (high - low) / 2, color=SECOND, marker="o", ms=3, lw=0.9)
        below.set_ylim(0, 1.15 * float(np.max(high - low, initial=1e-9)) / 2)
        below.set_xlabel(label)
        for axes in (above, below):
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=dim == "ccd"))
            axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    panels[0, 0].set_ylabel("mean ± its error")
    panels[1, 0].set_ylabel("scatter of stars")
    return drawn


def galaxies_along(table: xr.Dataset, dim: str, label: str) -> Figure:
    """Flux, size and χ² of restored galaxies along `dim`: mean, and the middle two thirds."""
    drawn = figure(8.4, 2.6)
    for axes, (name, title) in zip(drawn.subplots(1, 3, sharex=True), _GALAXIES, strict=True):
        _mean_and_band(axes, table.sel(quantity=name), dim)
        axes.set_title(title)
        axes.set_xlabel(label)
        if name != "R2":
            axes.axhline(float(name == "chi2"), color=ink(), lw=0.6, ls=":")
    return drawn


def _mean_and_band(axes: Axes, one: xr.Dataset, dim: str) -> None:
    use = one["n"].values >= LEAST
    at = one[dim].values[use]
    low, high = (one["quantile"].sel(quantile_at=p).values[use] for p in (0.16, 0.84))
    mean, error = one["mean"].values[use], (one["sd"].values / np.sqrt(one["n"].values))[use]
    axes.fill_between(at, low, high, color=ACCENT, alpha=0.18, lw=0)
    axes.errorbar(at, mean, yerr=error, color=ACCENT, fmt="o-", ms=3, elinewidth=0.8, lw=0.9)
    if use.any():
        centre = float(np.median((low + high) / 2))
        reach = 1.6 * max(float(np.quantile(high - low, 0.8)), float(np.ptp(mean)), 1e-9)
        axes.set_ylim(centre - reach, centre + reach)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=dim == "ccd"))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))


def residuals_over(table: xr.Dataset, *, dims: tuple[str, str], labels: tuple[str, str]) -> Figure:
    """Mean residuals in square cells of the focal plane or the CCD, as fine as stars allow.

    Parameters
    ----------
    table : with the quantities over `dims`
    dims : of the map, (y, x)
    labels : of its axes, (y, x)
    """
    n = table["n"].sel(quantity="R2_residual").transpose(*dims).values
    rows, columns = _extent(n.sum(axis=1)), _extent(n.sum(axis=0))
    part = table.isel({dims[0]: rows, dims[1]: columns}).transpose(..., *dims)
    k = coarsening(table)
    edges = [_edges(part[dim].values, table[dim].values, k) for dim in dims[::-1]]
    aspect = float(np.clip(np.ptp(edges[1]) / np.ptp(edges[0]), 0.3, 1.6))
    drawn = figure(8.4, float(np.clip(2.6 * aspect + 0.9, 1.8, 4.8)))
    for axes, (name, symbol) in zip(
        drawn.subplots(1, 3, sharex=True, sharey=True), RESIDUALS, strict=True
    ):
        means = _coarse(part.sel(quantity=f"{name}_residual"), k)
        finite = np.abs(means[np.isfinite(means)])
        reach = float(np.quantile(finite, 0.98)) if finite.size else 1.0
        shown = axes.pcolormesh(
            *edges, means, cmap=DIVERGING, vmin=-reach, vmax=reach, rasterized=True
        )
        axes.set_aspect("equal", adjustable="box")
        axes.set_xlabel(labels[1])
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
        bar = drawn.colorbar(
            shown, ax=axes, label=symbol, location="bottom", shrink=0.85, aspect=30, extend="both"
        )
        bar.locator = MaxNLocator(nbins=3)
    drawn.axes[0].set_ylabel(labels[0])
    return drawn


def _edges(shown: np.ndarray, all_centres: np.ndarray, k: int) -> np.ndarray:
    """Borders of cells, `k` together; the last may reach beyond the map."""
    cell = float(all_centres[1] - all_centres[0])
    return np.asarray(shown[0] - cell / 2 + k * cell * np.arange(-(-len(shown) // k) + 1))


def coarsening(table: xr.Dataset) -> int:
    """Cells along a side that are drawn as one, so that most hold stars enough for a mean."""
    n = table["n"].sel(quantity="R2_residual").values
    held = n[n > 0]
    return int(np.clip(np.ceil(np.sqrt(_ENOUGH / np.median(held))), 1, _COARSEST))


def _coarse(one: xr.Dataset, k: int) -> np.ndarray:
    """Means in squares of k by k cells."""
    n, total = one["n"].values, np.nan_to_num(one["mean"].values) * one["n"].values
    width = [(0, -size % k) for size in n.shape]
    sums = [
        np.pad(v, width).reshape((n.shape[0] + width[0][1]) // k, k, -1, k).sum(axis=(1, 3))
        for v in (n, total)
    ]
    means: np.ndarray = np.divide(
        sums[1], sums[0], out=np.full(sums[0].shape, np.nan), where=sums[0] >= LEAST
    )
    return means


def _extent(held: np.ndarray) -> slice:
    """From the first to the last that is not 0."""
    at = np.flatnonzero(held)
    return slice(int(at[0]), int(at[-1]) + 1) if at.size else slice(0, 1)


def rho_curves(rho: xr.Dataset) -> Figure:
    """Size of ρ₁ to ρ₅ against separation; open marks are negative."""
    drawn = figure(8.4, 3.0)
    for axes, names in zip(drawn.subplots(1, 2, sharex=True), _RHOS, strict=True):
        for name, colour in zip(names, _COLOURS, strict=False):
            _rho(axes, rho, name, colour)
        axes.set(xscale="log", yscale="log", xlabel="separation [arcmin]")
        axes.margins(y=0.18)
        axes.legend(fontsize=8, ncols=3, loc="upper right")
    drawn.axes[0].set_ylabel("|ρ|")
    return drawn


def _rho(axes: Axes, rho: xr.Dataset, name: str, colour: str) -> None:
    value, error = rho[name].values, rho[f"{name}_error"].values
    at, known = rho["separation"].values, np.isfinite(value) & (value != 0)
    axes.plot(at[known], np.abs(value[known]), color=colour, lw=0.7, alpha=0.6)
    for chosen, face in ((known & (value > 0), colour), (known & (value < 0), "none")):
        axes.errorbar(
            at[chosen],
            np.abs(value[chosen]),
            yerr=np.nan_to_num(error[chosen]),
            fmt="o",
            ms=4,
            color=colour,
            mfc=face,
            elinewidth=0.8,
            label=_NAMES[name] if face == colour else None,
        )
