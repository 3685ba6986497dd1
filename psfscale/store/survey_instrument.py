"""Root attributes of a survey store: that it is one, and the instrument it is of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psfscale.errors import StoreError
from psfscale.store.stores import attributes_of
from psfscale.survey.instrument import Instrument

if TYPE_CHECKING:
    from pathlib import Path

    import zarr

ATTRIBUTE = "instrument"


def stored_instrument(root: zarr.Group) -> Instrument | None:
    """Return the instrument of a survey store; None where an earlier psfscale wrote it."""
    content = attributes_of(root).get(ATTRIBUTE)
    return None if content is None else Instrument.model_validate(content)


def require_survey_store(root: zarr.Group, path: Path) -> None:
    """Raise where this is no store of a survey.

    Raises
    ------
    StoreError
        It is a run's, a model's or another.
    """
    kind = root.attrs.get("kind", "survey")
    if kind != "survey" or "exposures/id" not in root:
        of = f" of a {kind}" if kind != "survey" else ""
        msg = f"{path} is a store{of}, but not of a survey: `psfscale ingest` did not write it"
        raise StoreError(msg)
