"""Whether a run store is the run of a survey: by the ids and by the content of its exposures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from psfscale.errors import StoreError
from psfscale.store.stores import open_root, values_of

if TYPE_CHECKING:
    from pathlib import Path

    import zarr

CONTENT = "units/content"


def require_own_survey(run: Path, survey: Path) -> None:
    """Raise unless the run store at `run` is the run of the survey store at `survey`.

    Raises
    ------
    StoreError
        Its exposures or CCDs are others, or no exposure has the content that it had.
    """
    why = difference(open_root(run), open_root(survey))
    if why:
        msg = (
            f"{run} is the run of another survey than {survey}: {why}; choose another output, or "
            "give --overwrite to delete its products and begin anew"
        )
        raise StoreError(msg)


def difference(run: zarr.Group, survey: zarr.Group) -> str:
    """Return what tells the survey of a run from another one; empty where nothing does.

    Exposures that neither has named yet tell nothing, nor do some whose content has changed.
    """
    own, ids = (values_of(root, "exposure").astype(object) for root in (run, survey))
    if not (own != "").any():
        return ""  # no driver has come to it yet
    if own.size > ids.size:
        return f"it has {own.size} exposures, the survey {ids.size}"
    others = np.flatnonzero((own != ids[: own.size]) & (own != "") & (ids[: own.size] != ""))
    if others.size:
        return f"its exposure {others[0]} is {own[others[0]]}, the survey's {ids[others[0]]}"
    if not np.array_equal(values_of(run, "ccd"), values_of(survey, "ccd")):
        return "its CCDs are others"
    if CONTENT not in run:  # of an earlier psfscale
        return ""
    before = values_of(run, CONTENT).astype(object)
    now = values_of(survey, "exposures/content").astype(object)[: before.size]
    known = (before != "") & (now != "")
    if known.any() and not (before == now)[known].any():
        return f"none of its {known.sum()} exposures has the content that it had"
    return ""
