"""Columns of a catalogue, as a recipe names them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from psfscale.survey.instrument import Part
from psfscale.survey.sources import Names

__all__ = ["Column", "ColumnName"]


class Column(Part):
    """A column of a catalogue. A bare name in YAML is a column in the file's own unit."""

    name: Names = Field(description="of the column; of several the first present is read")
    unit: str | None = Field(default=None, description="unit; the file's own if left out")
    element: int | None = Field(default=None, ge=0, description="of a vector column, from 0")


def _column(raw: Any) -> Any:
    return {"name": raw} if isinstance(raw, (str, list, tuple)) else raw


ColumnName = Annotated[Column, BeforeValidator(_column)]
