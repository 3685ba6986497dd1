"""Settings of SPRITE, importable without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from psfscale.models.star_selection import LeastSnr, LeastStars, StarSelection, SuperResolution

__all__ = ["SPRITESettings", "SpriteFieldSettings"]


class SPRITESettings(SuperResolution):
    """Settings of the super-resolution of single PSFs, `psfscale.models.sprite.model.SPRITE`."""

    threshold: float = Field(
        default=4.0,
        ge=0,
        allow_inf_nan=True,
        description="κ: coefficients of the correction must exceed so much noise; "
        "infinite (.inf) = no correction but positivity [noise σ]",
    )
    noise: Literal["propagated", "band"] = Field(
        default="band",
        description="noise of the coefficients: of each through the operator, or one per band",
    )
    first_guess: Literal["bayes", "median", "coaddition", "gaussian"] = Field(
        default="bayes",
        description="x0: posterior mean with learned variances, median of the up-sampled stamps, "
        "their co-addition, or a round Gaussian",
    )
    positivity: bool = Field(default=True, description="hold the PSF positive")
    n_rounds: int = Field(
        default=10, ge=2, description="rounds of learned variances and refitted stars, at most [1]"
    )
    round_tolerance: float = Field(
        default=0.25,
        gt=0,
        description="change of the PSF in a round that ends them [its own noise σ]",
    )
    max_iterations: int = Field(
        default=60, ge=1, description="iterations of a pass of the correction, at most [1]"
    )
    tolerance: float = Field(
        default=0.03,
        gt=0,
        description="residual of the correction's solver that ends it [the PSF's noise σ]",
    )


class SpriteFieldSettings(SPRITESettings, StarSelection):
    """Settings of SPRITE as a model of a CCD, `psfscale.models.sprite.field.SpriteField`."""

    cells_y: int = Field(default=2, ge=1, le=64, description="cells of the CCD along y [1]")
    cells_x: int = Field(default=2, ge=1, le=64, description="cells of the CCD along x [1]")
    interpolation: Literal["bilinear", "nearest"] = Field(
        default="bilinear", description="PSF between the cells' centres"
    )
    max_stars: int = Field(
        default=32, ge=1, description="brightest stars of a cell that are used [1]"
    )
    min_snr: LeastSnr = 10.0
    min_stars: LeastStars = Field(
        default=3, description="stars below which a cell takes its neighbours' too [1]"
    )

    def simpler(self) -> tuple[tuple[str, SpriteFieldSettings], ...]:
        """Return settings of simpler fields, in the order in which they stand in, with a name."""
        return (("a mean star", self.model_copy(update={"cells_y": 1, "cells_x": 1})),)
