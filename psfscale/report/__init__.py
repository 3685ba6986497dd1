"""The page that shows a run.

`write_report` reads the run and survey stores exposure by exposure and writes one HTML
file that needs nothing else: figures are inline SVG, styles are in the page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psfscale.errors import RunError
from psfscale.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import xarray as xr

__all__ = ["write_report"]


def write_report(
    tree: xr.DataTree,
    *,
    survey: xr.DataTree,
    summary: xr.Dataset,
    tables: Mapping[str, xr.Dataset],
    status: Mapping[str, Any],
    output: Path,
) -> None:
    """Write one self-contained HTML page about a run.

    Parameters
    ----------
    tree : of the run store
    survey : of the survey store it was made from
    summary : metrics of the whole survey, scalars
    tables : tables and maps of `psfscale.metrics.tables.tables` by path; what is missing is left
        out of the page
    status : plain values of the run's status: ``units`` and ``ccds`` (stage → state →
        count), ``costs`` (stage → what its units took), ``hosts`` (host → what it gave),
        ``failures`` (mappings with ``stage, exposure_id, ccd_id, type, message``), ``driver``,
        ``finished``; whatever is missing is left out of the page
    output : the page to write; replaced if it exists

    Raises
    ------
    RunError
        matplotlib or jinja2 is not installed.
    """
    try:
        from psfscale.report.page import render
    except ModuleNotFoundError as error:
        if error.name not in ("matplotlib", "jinja2"):
            raise
        msg = f"the report needs {error.name}; install it with: pip install 'psfscale[report]'"
        raise RunError(msg) from error
    page = render(tree, survey=survey, summary=summary, tables=tables, status=status)
    with write_whole(output) as partial:
        partial.write_text(page, encoding="utf-8")
