"""Settings of the learnt restoration, importable without torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["N_GAUSSIANS", "N_SUMS", "LearntSettings", "PriorNumbers"]

N_GAUSSIANS = 7
"""That a profile is made of."""
N_SUMS = (N_GAUSSIANS + 1) * (N_GAUSSIANS + 2) + 11
"""Numbers in the sums that a prior is learnt from."""
PriorNumbers = dict[str, list[float] | list[list[float]] | float]
"""The arrays of a prior by name, as numbers that JSON can hold."""


class LearntSettings(BaseModel):
    """How galaxies are restored by `psfscale.deconvolve.learnt`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    oversampling: int = Field(
        default=1,
        ge=1,
        le=6,
        description="fine pixels per CCD pixel along an axis, of the PSFs and of the result [1]",
    )
    resolution: float = Field(
        default=0.5,
        gt=0,
        description="width σ of the beam of the result; half a pixel is the sharpest that a grid "
        "holds [fine pixel]",
    )
    target_fwhm: float | None = Field(
        default=None,
        gt=0,
        description="round Gaussian PSF that the result is given; unset = the beam [CCD pixel]",
    )
    clumps: bool = Field(default=True, description="restore what an elliptical profile leaves over")
    fast: bool = Field(
        default=False,
        description="fit galaxies without masked pixels by their low frequencies alone, restore "
        "what is left over by a Wiener filter, and look for no neighbours",
    )
    sky: bool = Field(
        default=True,
        description="integrate out a level under each galaxy, where the catalogue shows that "
        "backgrounds leave one",
    )
    error: bool = Field(default=True, description="standard error of each pixel")
    n_learn: int = Field(
        default=250,
        ge=1,
        description="galaxies, evenly spaced, that a stack's prior is learnt from",
    )
    n_rounds: int = Field(
        default=4, ge=1, description="rounds of expectation and maximisation that learn it [1]"
    )
