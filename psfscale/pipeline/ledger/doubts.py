"""Doubtful CCDs in a few lines: how many by check, and the first of each with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def doubt_lines(doubts: Iterable[Mapping[str, object]]) -> list[str]:
    """Return a line for each check that tripped.

    Parameters
    ----------
    doubts : plain values of `DoubtfulCcd`
    """
    by_check: dict[str, list[Mapping[str, object]]] = {}
    for doubt in doubts:
        by_check.setdefault(str(doubt["check"]), []).append(doubt)
    lines = []
    for check, found in by_check.items():
        first = found[0]
        n = len({(one["exposure_id"], one["ccd_id"]) for one in found})
        such = f"{n} CCDs are" if n > 1 else "1 CCD is"
        where = f"exposure {first['exposure_id']} CCD {first['ccd_id']}"
        which = where if n == 1 else f"the first {where}"
        lines.append(f"{such} doubtful by {check}; {which}: {first['message']}")
    return lines
