"""Stamps side by side: stacks of stars and residuals, components of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import AsinhNorm

from psfscale.report.drawing import DIVERGING, SEQUENTIAL, bare, figure

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.figure import Figure

    from psfscale.report.data import Components, Stacks

_MOST_CCDS = 36
_MOST_COMPONENTS = 15
_KEPT = 32
"""Pixels of a stamp shown to each side of its centre."""


def _core(image: Float[np.ndarray, "... y x"], kept: int = _KEPT) -> Float[np.ndarray, "... y x"]:
    rows, columns = (slice(max(n // 2 - kept, 0), n // 2 + kept + 1) for n in image.shape[-2:])
    return np.asarray(image[..., rows, columns])


def stacked_stamps(stacks: Stacks) -> Figure:
    """Mean star, mean model and mean residual of all reserved stars."""
    star, residual = (_core(image, _KEPT * stacks.samples) for image in stacks.overall())
    drawn = figure(8.4, 3.0)
    peak = float(np.nanmax(star)) if np.isfinite(star).any() else 1.0
    panels = drawn.subplots(1, 3)
    for axes, image, title in zip(panels, (star, star - residual), ("star", "model"), strict=False):
        norm = AsinhNorm(linear_width=peak / 300, vmin=0, vmax=peak)
        shown = axes.imshow(image, cmap=SEQUENTIAL, norm=norm)
        axes.set_title(title)
        drawn.colorbar(shown, ax=axes, location="bottom", shrink=0.8, aspect=25,
                       ticks=[0, peak / 100, peak / 10, peak],
                       format="%.2g", label="fraction of the flux in a pixel")  # fmt: skip
        bare(axes)
    reach = float(np.nanmax(np.abs(residual))) or 1e-6 if np.isfinite(residual).any() else 1.0
    shown = panels[2].imshow(residual / peak, cmap=DIVERGING, vmin=-reach / peak, vmax=reach / peak)
    panels[2].set_title("star − model")
    drawn.colorbar(shown, ax=panels[2], location="bottom", shrink=0.8, aspect=25,
                   label="fraction of the star's peak")  # fmt: skip
    bare(panels[2])
    return drawn


def residual_mosaic(stacks: Stacks, ccds: np.ndarray) -> Figure:
    """Mean residual of each CCD, on one scale."""
    chosen = np.flatnonzero(stacks.n_stars > 0)[:_MOST_CCDS]
    columns = int(min(len(chosen), 9))
    rows = -(-len(chosen) // columns)
    drawn = figure(8.4, 1.15 * rows + 0.7)
    panels = np.atleast_1d(drawn.subplots(rows, columns, squeeze=False)).ravel()
    peaks = np.nanmax(stacks.star[chosen], axis=(1, 2))[:, None, None]
    images = _core(stacks.residual[chosen] / peaks, 12 * stacks.samples)
    reach = float(np.nanquantile(np.abs(images), 0.999)) or 1e-6
    for axes, image, ccd in zip(panels, images, ccds[chosen], strict=False):
        shown = axes.imshow(image, cmap=DIVERGING, vmin=-reach, vmax=reach)
        axes.set_title(f"CCD {ccd}", fontsize=8, pad=2)
    for axes in panels:
        bare(axes)
        axes.set_visible(bool(axes.images))
    drawn.colorbar(shown, ax=list(panels), location="right", shrink=0.8, aspect=25,
                   label="(star − model) / peak")  # fmt: skip
    return drawn


def component_stamps(components: Components) -> Figure:
    """Components of the model, each on its own symmetric scale."""
    images = components.images[:_MOST_COMPONENTS]
    extreme = np.abs(images).reshape(len(images), -1).argmax(axis=1)
    images = (
        images
        * np.sign(images.reshape(len(images), -1)[range(len(images)), extreme])[:, None, None]
    )
    columns = min(max(len(images), 1), 5)
    rows = -(-max(len(images), 1) // columns)
    drawn = figure(8.4, 1.75 * rows + 0.2)
    panels = drawn.subplots(rows, columns, squeeze=False).ravel()
    kept = images.shape[-1] // 3 if images.size else 0
    for k, (axes, image) in enumerate(zip(panels, images, strict=False)):
        reach = float(np.abs(image).max()) or 1.0
        norm = AsinhNorm(linear_width=reach / 30, vmin=-reach, vmax=reach)
        axes.imshow(_core(image, kept), cmap=DIVERGING, norm=norm)
        axes.set_title(f"{k + 1}", fontsize=8, pad=2)
    for axes in panels:
        bare(axes)
    return drawn
