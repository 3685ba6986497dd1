"""Settings of super-resolution and star selection that RCA and SPRITE share, without torch."""

from __future__ import annotations

import math
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from psfscale.models.dictionary_settings import DictionarySettings

__all__ = ["LeastSnr", "LeastStars", "StarSelection", "SuperResolution"]

LeastSnr = Annotated[
    float, Field(ge=0, description="stars of lower signal-to-noise are not fitted [1]")
]
"""Each model has its own default."""

LeastStars = Annotated[int, Field(ge=1, description="fewest usable stars of a fit [1]")]


class SuperResolution(DictionarySettings):
    """How an image finer than the CCD's pixels is found from stars off their stamps' centres."""

    upsampling: int = Field(
        default=2, ge=1, le=6, description="fine pixels per CCD pixel along an axis [1]"
    )
    band_limit: float | None = Field(
        default=None,
        gt=0,
        description="cut-off of the optics, pixel_scale·aperture/λ_min [cycle/CCD pixel]; "
        "unset = unknown",
    )
    n_reweights: int = Field(default=1, ge=0, description="reweighted passes of the sparsity [1]")
    max_shift: float = Field(
        default=3.0,
        gt=0,
        description="farthest that a star of the fit lies off its stamp's centre [CCD pixel]",
    )

    @property
    def n_aliases(self) -> int:
        """Frequencies of the image an axis that the CCD's sampling puts in one [1].

        Stars of different sub-pixel phases tell them apart; a band limit below the fine grid's
        own leaves fewer.
        """
        fine = int(getattr(self, "fine_upsampling", self.upsampling))
        return fine if self.band_limit is None else min(fine, math.ceil(2 * self.band_limit))

    def held_to(self, upsampling: int) -> Self:
        """Return the settings with the band limit of `upsampling`, their grid as it was."""
        limit = upsampling / 2
        known = self.band_limit
        fine = int(getattr(self, "fine_upsampling", self.upsampling))
        return self.model_copy(
            update={
                "band_limit": limit if known is None else min(limit, known),
                "upsampling": fine,
            }
        )


class StarSelection(BaseModel):
    """Which stars of a CCD take part in its fit."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    clip: float = Field(
        default=6.0,
        gt=0,
        description="stars whose reduced χ² stands out by more are clipped [robust σ]",
    )
    min_snr: LeastSnr = 5.0
    min_stars: LeastStars = 6
