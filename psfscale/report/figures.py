"""Histograms, trends and maps of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.ticker import MaxNLocator

from psfscale.report.drawing import ACCENT, DIVERGING, SECOND, SEQUENTIAL, figure, ink

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from psfscale.report.data import StarSample

RESIDUALS = (("e1", "δe₁"), ("e2", "δe₂"), ("R2", "δR²/R²"))
_FEW = 1500
"""Stars up to which a map shows each; above, it shows means in cells."""
_CELLS = 28
_WHISKER_CELLS = 18
_LEAST_IN_CELL = 3


def _limit(values: np.ndarray, quantile: float = 0.98) -> float:
    """A symmetric range that holds nearly all of what is finite."""
    finite = np.abs(values[np.isfinite(values)])
    return float(np.quantile(finite, quantile)) or 1e-6 if finite.size else 1.0


def residual_histograms(stars: StarSample) -> Figure:
    """Distribution of star − model of e1, e2 and relative R² over the reserved stars."""
    drawn = figure(8.4, 2.5)
    for axes, (name, label) in zip(drawn.subplots(1, 3), RESIDUALS, strict=True):
        values = stars.residual(name)
        values = values[np.isfinite(values)]
        reach = _limit(values, 0.99) * 1.25
        bins = int(np.clip(2 * np.cbrt(max(values.size, 1)) * 2, 12, 60))
        axes.hist(values, bins=bins, range=(-reach, reach), color=ACCENT, alpha=0.85)
        axes.axvline(0, color=ink(), lw=0.6)
        if values.size:
            axes.axvline(values.mean(), color=SECOND, lw=1.4)
        axes.set(xlabel=f"{label} (star − model)", yticks=axes.get_yticks()[[0, -2]])
        axes.set_xlim(-reach, reach)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    drawn.axes[0].set_ylabel("stars")
    return drawn


def residual_maps(stars: StarSample) -> Figure:
    """Where on the focal plane the residuals are: each star, or means in cells."""
    x, y = stars.place
    width, height = _map_size(x, y, 3)
    drawn = figure(width, height)
    for axes, (name, label) in zip(
        drawn.subplots(1, 3, sharex=True, sharey=True), RESIDUALS, strict=True
    ):
        values = stars.residual(name)
        use = np.isfinite(values) & np.isfinite(x) & np.isfinite(y)
        if use.sum() > _FEW:
            means, edges = _in_cells(x[use], y[use], values[use], _CELLS)
            reach = _limit(means)
            shown: Any = axes.pcolormesh(
                *edges, means, cmap=DIVERGING, vmin=-reach, vmax=reach, rasterized=True
            )
        else:
            reach = _limit(values[use], 0.95)
            shown = axes.scatter(
                x[use], y[use], c=values[use], cmap=DIVERGING, vmin=-reach, vmax=reach,
                s=14, edgecolors=ink(), linewidths=0.25,
            )  # fmt: skip
        _finish_map(axes, stars.unit)
        bar = drawn.colorbar(shown, ax=axes, label=label, location="bottom", shrink=0.85, aspect=30)
        bar.locator = MaxNLocator(nbins=4)
    drawn.axes[0].set_ylabel(f"{_axis_name(stars.unit)} y [{stars.unit}]")
    return drawn


def shape_maps(stars: StarSample) -> Figure:
    """The model itself over the focal plane: ellipticity whiskers and size."""
    x, y = stars.place
    width, height = _map_size(x, y, 2)
    drawn = figure(width, height)
    left, right = drawn.subplots(1, 2, sharex=True, sharey=True)
    e1, e2, R2 = (stars.columns[f"{name}_model"] for name in ("e1", "e2", "R2"))
    use = np.isfinite(e1) & np.isfinite(R2) & np.isfinite(x) & np.isfinite(y)
    if not use.any():
        return drawn
    _whiskers(left, x[use], y[use], e1[use], e2[use])
    means, edges = _in_cells(x[use], y[use], 1.6651 * np.sqrt(R2[use]), _CELLS, least=1)
    low, high = np.nanquantile(means, (0.02, 0.98))
    shown = right.pcolormesh(*edges, means, cmap=SEQUENTIAL, vmin=low, vmax=high, rasterized=True)
    drawn.colorbar(
        shown, ax=right, label="FWHM [arcsec]", location="right", shrink=0.8, aspect=30,
        extend="both",
    )  # fmt: skip
    for axes in (left, right):
        _finish_map(axes, stars.unit)
    left.set_ylabel(f"{_axis_name(stars.unit)} y [{stars.unit}]")
    return drawn


def exposure_trends(exposures: xr.Dataset) -> Figure:
    """Errors of each exposure, in order."""
    drawn = figure(8.4, 4.2)
    panels = drawn.subplots(2, 2, sharex=True)
    index = np.arange(exposures.sizes["exposure"])

    def line(axes: Axes, name: str, label: str, color: str) -> None:
        axes.plot(index, exposures[name].values, label=label, color=color, lw=0.8, ms=3, marker="o")

    line(panels[0, 0], "mean_star_rel_rmse", "mean star", SECOND)
    line(panels[0, 0], "model_rel_rmse", "model", ACCENT)
    panels[0, 0].plot(
        index, exposures["noise_rel_rmse"].values, color=ink(), lw=0.8, ls=":", label="noise"
    )
    panels[0, 0].set_ylabel("relative pixel error")
    line(panels[0, 1], "chi2_median", "χ²", ACCENT)
    panels[0, 1].axhline(1, color=ink(), lw=0.6, ls=":")
    panels[0, 1].set_ylabel("median reduced χ²")
    for axes, names in ((panels[1, 0], ("e1", "e2")), (panels[1, 1], ("R2",))):
        for name, color in zip(names, (ACCENT, SECOND), strict=False):
            bias, rms = exposures[f"{name}_bias"].values, exposures[f"{name}_rmse"].values
            n = np.maximum(exposures["n_measured"].values, 1)
            error = np.sqrt(np.maximum(rms**2 - bias**2, 0) / n)
            axes.errorbar(index, bias, yerr=error, color=color, label=f"δ{name}", fmt="o", ms=3,
                          elinewidth=0.8)  # fmt: skip
        axes.axhline(0, color=ink(), lw=0.6, ls=":")
        axes.set_xlabel("exposure (order in the store)")
    panels[1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[1, 0].set_ylabel("mean δe ± standard error")
    panels[1, 1].set_ylabel("mean δR²/R² ± standard error")
    panels[0, 0].legend(fontsize=8)
    panels[1, 0].legend(fontsize=8)
    return drawn


def _map_size(x: np.ndarray, y: np.ndarray, panels: int) -> tuple[float, float]:
    """Inches of a row of maps that keeps the field's aspect, within reason."""
    spans = [float(np.ptp(v[np.isfinite(v)])) if np.isfinite(v).any() else 1.0 for v in (x, y)]
    aspect = np.clip(spans[1] / max(spans[0], 1e-9), 0.45, 1.6)
    width = 8.4
    return width, float(np.clip((width / panels - 0.3 * panels) * aspect + 0.9, 2.2, 4.8))


def _in_cells(
    x: np.ndarray, y: np.ndarray, values: np.ndarray, cells: int, least: int = _LEAST_IN_CELL
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Mean of the values in square cells; NaN where fewer than `least` lie."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    side = max(np.ptp(x), np.ptp(y), 1.0) / min(cells, max(int(np.sqrt(len(x) / 2)), 2))
    edges = [np.arange(v.min(), v.max() + 1.001 * side, side) for v in (x, y)]
    total, _, _ = np.histogram2d(y, x, bins=(edges[1], edges[0]), weights=values)
    count, _, _ = np.histogram2d(y, x, bins=(edges[1], edges[0]))
    means = np.divide(total, count, out=np.full_like(total, np.nan), where=count >= least)
    return means, (edges[0], edges[1])


def _whiskers(axes: Axes, x: np.ndarray, y: np.ndarray, e1: np.ndarray, e2: np.ndarray) -> None:
    """Headless sticks along the major axis, as long as e is large, in cells of the field."""
    means1, edges = _in_cells(x, y, e1, _WHISKER_CELLS, least=1)
    means2, _ = _in_cells(x, y, e2, _WHISKER_CELLS, least=1)
    cx, cy = np.meshgrid(*(edge[:-1] + np.diff(edge) / 2 for edge in edges))
    has = np.isfinite(means1)
    size, angle = np.hypot(means1, means2)[has], 0.5 * np.arctan2(means2, means1)[has]
    longest = float(np.quantile(size, 0.98)) or 1e-6
    cell = edges[0][1] - edges[0][0]
    half = np.minimum(size / longest, 1.5)[:, None] * 0.5 * cell
    step = half * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    centre = np.stack([cx[has], cy[has]], axis=1)
    axes.add_collection(
        LineCollection(
            list(np.stack([centre - step, centre + step], axis=1)), colors=ACCENT, lw=1.3
        )
    )
    axes.set(xlim=(edges[0][0], edges[0][-1]), ylim=(edges[1][0], edges[1][-1]))
    axes.set_title(f"one cell long: |e| = {longest:.3f}")


def _axis_name(unit: str) -> str:
    return "field" if unit == "mm" else "CCD"


def _finish_map(axes: Axes, unit: str) -> None:
    axes.set_aspect("equal", adjustable="box")
    narrow = np.ptp(axes.get_xlim()) < np.ptp(axes.get_ylim()) / 1.5
    axes.xaxis.set_major_locator(MaxNLocator(nbins=3 if narrow else 5))
    axes.set_xlabel(f"{_axis_name(unit)} x [{unit}]")
