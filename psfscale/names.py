"""Names that a user may have meant."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["by_nearness", "nearest"]


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `` (do you mean 'x'?)`` for the known name nearest to `name`, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (do you mean {near[0]!r}?)" if near else ""


def by_nearness(name: str, known: Iterable[str]) -> list[str]:
    """Return known names, those like `name` first, the others in their order."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return [*near, *(other for other in names if other not in near)]
