"""Figures as inline SVG that follows the page's ink, light or dark."""

from __future__ import annotations

import io
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes

_INK = "#010203"
"""Stands for the colour of the page's text, and is exchanged for it in the SVG."""
ACCENT = "#2a78b5"
SECOND = "#c8731b"
SEQUENTIAL = "cividis"
DIVERGING = "RdBu_r"

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.titlesize": 9,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "lines.linewidth": 1.2,
    "image.origin": "lower",
    "image.interpolation": "nearest",
}


def ink() -> str:
    """The colour to give what is drawn in the page's text colour."""
    return _INK


@contextmanager
def style() -> Iterator[None]:
    """Draw in the page's style; the user's own matplotlib settings stay out of it."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    return Figure(figsize=(width, height), layout="constrained")


def bare(axes: Axes) -> None:
    """Leave an image without ticks and frame."""
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def as_svg(drawn: Figure, *, name: str) -> str:
    """The figure as an ``svg`` element; `name` keeps its ids apart from other figures'."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.id": f"figure-{name}"}):
        drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, dpi=110)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Ids of groups, such as "patch_2", and of images repeat; nothing refers to them.
    text = re.sub(r'<g id="[^"]+"', "<g", text)
    text = re.sub(r' id="image[0-9a-f]+"', "", text)
    return re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1).replace(
        "<svg", f'<svg role="img" aria-labelledby="caption-{name}"', 1
    )
