"""Settings of the dictionary Φ that RCA and SPRITE share, importable without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from psfscale.arrayfile import read_array

__all__ = ["DictionarySettings"]


class DictionarySettings(BaseModel):
    """The transform in which an image is sparse."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    transform: Literal["starlet", "biorthogonal", "user"] = Field(
        default="starlet",
        description="Φ, in which an image is sparse: B3 starlet, undecimated 7/9, or `filters`",
    )
    n_scales: int = Field(
        default=3,
        ge=1,
        le=6,
        description="scales of starlet or 7/9, without the coarse band [1]",
    )
    filters: tuple[tuple[tuple[float, ...], ...], ...] | None = Field(
        default=None,
        description="user's filter bank (band, y, x) in fine pixels, coarse band last: numbers, "
        "or the path of a .npy or FITS file, which is read at once [1]",
    )

    @field_validator("filters", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        """What a file holds becomes part of the settings: they alone determine a fit."""
        if isinstance(value, str | Path):
            value = read_array(value)
        if not isinstance(value, np.ndarray):
            return value
        if value.ndim != 3:
            msg = f"a filter bank is an array (band, y, x), got shape {value.shape}"
            raise ValueError(msg)
        return value.astype(np.float64).tolist()

    @model_validator(mode="after")
    def _filters_where_needed(self) -> Self:
        if (self.transform == "user") != (self.filters is not None):
            msg = "give filters with transform 'user', and only then"
            raise ValueError(msg)
        return self
