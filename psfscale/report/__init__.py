"""The page that shows a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr

__all__ = ["write_report"]


def write_report(
    tree: xr.DataTree, *, survey: xr.DataTree, status: dict[str, Any], output: Path
) -> None:
    """Write one self-contained HTML page about a run."""
    raise NotImplementedError
