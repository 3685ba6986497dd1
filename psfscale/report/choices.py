"""Which model stands for each CCD of a run with several: numbers, and where each was chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.ticker import MaxNLocator

from psfscale.attributes import codes_of
from psfscale.report.data import shown_exposures
from psfscale.report.drawing import ACCENT, SECOND, figure
from psfscale.report.numbers import number
from psfscale.report.plate import Plate

if TYPE_CHECKING:
    import xarray as xr
    from jaxtyping import Float, UInt8
    from matplotlib.figure import Figure

_COLOURS = (ACCENT, SECOND, "#5b8c3a", "#8e5aa8")


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Which model stands for each CCD.

    Attributes
    ----------
    names : of the models that were fitted or chosen, in the order of their codes
    chosen : (exposure, ccd), place in `names` and 1; 0 where no model stands
    scores : (model, exposure, ccd), NaN where there is none
    exposures, ccds : ids
    """

    names: tuple[str, ...]
    chosen: UInt8[np.ndarray, "exposure ccd"]
    scores: Float[np.ndarray, "model exposure ccd"]
    exposures: np.ndarray
    ccds: np.ndarray

    def of_ccds(self) -> Float[np.ndarray, "model ccd"]:
        """Part of the exposures of each CCD for which each model stands."""
        counts = np.stack([(self.chosen == k + 1).sum(axis=0) for k in range(len(self.names))])
        return np.asarray(counts / np.maximum(counts.sum(axis=0), 1))


@dataclass(frozen=True, kw_only=True)
class ChoiceRow:
    """One model in the table of choices."""

    model: str
    n: str
    share: str
    score: str
    where_chosen: str


def gather_choices(tree: xr.DataTree) -> Choices | None:
    """The choices of a run; None where there was none to make."""
    ccds = tree["ccds"].dataset
    if "model" not in ccds:
        return None
    codes = ccds["model"].values
    known = sorted(codes_of(ccds["model"].attrs).items(), key=lambda item: item[1])
    scores = {name: ccds[f"score_{name}"].values for name, _ in known if f"score_{name}" in ccds}
    tried = [
        (name, code)
        for name, code in known
        if (codes == code).any() or np.isfinite(scores.get(name, np.nan)).any()
    ]
    if not tried:
        return None
    chosen = np.zeros(codes.shape, np.uint8)
    for k, (_, code) in enumerate(tried):
        chosen[codes == code] = k + 1
    blank = np.full(codes.shape, np.nan)
    return Choices(
        names=tuple(name for name, _ in tried),
        chosen=chosen,
        scores=np.stack([np.asarray(scores.get(name, blank), np.float64) for name, _ in tried]),
        exposures=tree.dataset["exposure"].values,
        ccds=tree.dataset["ccd"].values,
    )


def choice_rows(choices: Choices | None) -> list[ChoiceRow]:
    """For how many CCDs each model stands, and how it agrees with their reserved stars."""
    if choices is None:
        return []
    total = max(int((choices.chosen > 0).sum()), 1)
    rows = []
    for k, name in enumerate(choices.names):
        stands = choices.chosen == k + 1
        rows.append(
            ChoiceRow(
                model=name,
                n=f"{int(stands.sum()):,}",
                share=f"{100 * stands.sum() / total:.0f} %",
                score=_median(choices.scores[k]),
                where_chosen=_median(choices.scores[k][stands]),
            )
        )
    return rows


def choice_plate(choices: Choices) -> Plate:
    """The map of choices."""
    n, shown = len(choices.exposures), shown_exposures(len(choices.exposures))
    some = "" if len(shown) == n else f", {len(shown)} of {n} exposures"
    return Plate.of(
        "choices",
        "The model of each CCD",
        choice_map(choices),
        f"Left: part of the exposures for which each model stands, CCD by CCD, n = "
        f"{int((choices.chosen > 0).sum())} CCDs of all exposures. Right: which model stands "
        f"for each CCD{some}; blank where none could be fitted.",
    )


def choice_map(choices: Choices) -> Figure:
    """Shares by CCD, and the choice for each CCD of the exposures shown."""
    drawn = figure(8.4, 3.2)
    bars, cells = drawn.subplots(1, 2)
    at, below = np.arange(len(choices.ccds)), np.zeros(len(choices.ccds))
    for name, share, colour in zip(choices.names, choices.of_ccds(), _COLOURS, strict=False):
        bars.bar(at, share, bottom=below, color=colour, width=0.9, label=name)
        below += share
    bars.set(ylabel="part of the exposures", xlabel="CCD", ylim=(0, 1))
    bars.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(choices.names))
    shown = shown_exposures(len(choices.exposures))
    codes = np.ma.masked_equal(choices.chosen[shown], 0)
    colours = ListedColormap(_COLOURS[: len(choices.names)])
    edges = BoundaryNorm(np.arange(len(choices.names) + 1) + 0.5, len(choices.names))
    cells.pcolormesh(
        np.arange(codes.shape[1] + 1) - 0.5,
        np.arange(codes.shape[0] + 1) - 0.5,
        codes,
        cmap=colours,
        norm=edges,
        rasterized=True,
    )
    cells.set(xlabel="CCD", ylabel="exposure")
    for axes in (bars, cells):
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.xaxis.set_major_formatter(lambda value, _: _label(choices.ccds, value))
    cells.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    cells.yaxis.set_major_formatter(lambda value, _: _label(choices.exposures[shown], value))
    return drawn


def _label(ids: np.ndarray, value: float) -> str:
    place = round(value)
    return str(ids[place]) if abs(value - place) < 1e-6 and 0 <= place < len(ids) else ""


def _median(scores: np.ndarray) -> str:
    finite = scores[np.isfinite(scores)]
    return number(float(np.median(finite))) if finite.size else "–"
