"""A figure of the page, with its heading and caption."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from psfscale.report.drawing import as_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Plate:
    """A figure with its heading and caption."""

    name: str
    title: str
    svg: Markup
    caption: str

    @classmethod
    def of(cls, name: str, title: str, drawn: Figure, caption: str) -> Plate:
        """A drawn figure; `name` is its anchor in the page."""
        # The SVG is our own drawing; texts in it are escaped by matplotlib.
        svg = Markup(as_svg(drawn, name=name))  # noqa: S704
        return cls(name=name, title=title, svg=svg, caption=caption)
