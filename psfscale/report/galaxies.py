"""Galaxies of one CCD beside what was restored of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import AsinhNorm

from psfscale.report.drawing import SEQUENTIAL, bare, figure
from psfscale.report.plate import Plate

if TYPE_CHECKING:
    import xarray as xr
    from jaxtyping import Float
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHOWN = 8
_KEPT = 0.6
"""Part of a stamp's side that is shown."""


@dataclass(frozen=True, kw_only=True)
class Restored:
    """Galaxies of one CCD as seen and as restored, from faint to bright.

    Attributes
    ----------
    seen : (galaxy, y, x), electron
    restored, error : (galaxy, v, u), electron, perhaps on a finer grid
    snr : (galaxy,)
    n : galaxies of the CCD that they stand for
    """

    seen: Float[np.ndarray, "galaxy y x"]
    restored: Float[np.ndarray, "galaxy v u"]
    error: Float[np.ndarray, "galaxy v u"]
    snr: Float[np.ndarray, " galaxy"]
    n: int
    exposure: str
    ccd: int


def gather_restored(tree: xr.DataTree, survey: xr.DataTree) -> Restored | None:
    """Of the first CCD with restored galaxies, some at even ranks of signal to noise."""
    if "galaxies" not in tree.children or "restored" not in tree["galaxies"].dataset:
        return None
    run, sky = tree["galaxies"].dataset, survey["galaxies"].dataset
    for exposure in range(run.sizes["exposure"]):
        known = np.isfinite(run["restored_flux"].isel(exposure=exposure).values)
        if not known.any():
            continue
        ccd = int(known.any(axis=1).argmax())
        here = {"exposure": exposure, "ccd": ccd}
        snr = sky["snr"].isel(here).values
        chosen = _even_ranks(np.flatnonzero(known[ccd]), snr)
        return Restored(
            seen=sky["image"].isel(here).values[chosen],
            restored=run["restored"].isel(here).values[chosen],
            error=run["restored_error"].isel(here).values[chosen],
            snr=snr[chosen],
            n=int(known[ccd].sum()),
            exposure=str(tree.dataset["exposure"].values[exposure]),
            ccd=int(tree.dataset["ccd"].values[ccd]),
        )
    return None


def _even_ranks(galaxies: np.ndarray, snr: np.ndarray) -> np.ndarray:
    """Of `galaxies`, some at even ranks of `snr`, the least and the most left out."""
    ranked = galaxies[np.argsort(snr[galaxies])]
    ranks = np.linspace(0, len(ranked) - 1, min(_SHOWN, len(ranked)) + 2)[1:-1]
    return np.asarray(ranked[np.round(ranks).astype(int)])


def restored_stamps(galaxies: Restored) -> Figure:
    """Galaxies seen, restored, and the standard error; one column a galaxy."""
    n = len(galaxies.snr)
    drawn = figure(8.4, 3.4)
    panels = drawn.subplots(3, n, squeeze=False)
    for k, column in enumerate(panels.T):
        peak = float(galaxies.restored[k].max())
        _stamp(column[0], galaxies.seen[k], float(galaxies.seen[k].max()))
        _stamp(column[1], galaxies.restored[k], peak)
        _stamp(column[2], galaxies.error[k], peak)
        column[0].set_title(f"S/N {galaxies.snr[k]:.3g}", fontsize=8, pad=3)
    for axes, name in zip(panels[:, 0], ("seen", "restored", "its error"), strict=True):
        axes.set_ylabel(name)
    return drawn


def _stamp(axes: Axes, image: Float[np.ndarray, "y x"], peak: float) -> None:
    """The middle of a stamp on a scale from 0 to `peak`."""
    cut = [round(side * (1 - _KEPT) / 2) for side in image.shape]
    middle = image[cut[0] : image.shape[0] - cut[0], cut[1] : image.shape[1] - cut[1]]
    top = peak if peak > 0 else 1.0
    norm = AsinhNorm(linear_width=top / 20, vmin=0, vmax=top)
    axes.imshow(middle, cmap=SEQUENTIAL, norm=norm)
    bare(axes)


def restored_plate(tree: xr.DataTree, survey: xr.DataTree) -> list[Plate]:
    """The plate, where the run restores galaxies."""
    galaxies = gather_restored(tree, survey)
    if galaxies is None:
        return []
    return [
        Plate.of(
            "restored",
            "Galaxies without their PSF",
            restored_stamps(galaxies),
            f"Galaxies of exposure {galaxies.exposure}, CCD {galaxies.ccd}, at even ranks of "
            f"signal to noise among its {galaxies.n}: as seen, as restored, and the standard error "
            "of each pixel on the scale of the restored image. Scales are stretched (asinh) from 0 "
            "to the brightest pixel; the middle of each stamp is shown.",
        )
    ]
