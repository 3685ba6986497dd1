"""The instrument that a survey store was ingested with, as its root attributes keep it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psfscale.store.layout import attributes_of
from psfscale.survey.instrument import Instrument

if TYPE_CHECKING:
    import zarr

ATTRIBUTE = "instrument"


def stored_instrument(root: zarr.Group) -> Instrument | None:
    """Return the instrument of a survey store; None where an earlier psfscale wrote it."""
    content = attributes_of(root).get(ATTRIBUTE)
    return None if content is None else Instrument.model_validate(content)
