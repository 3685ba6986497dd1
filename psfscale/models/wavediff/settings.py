"""Settings of WaveDiff, importable without torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from psfscale.survey import Instrument

__all__ = ["OpticsSettings", "WaveDiffSettings"]


class OpticsSettings(BaseModel):
    """The light path of a telescope in plain numbers; a survey file gives them all."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    aperture: float = Field(gt=0, description="diameter of the entrance pupil [m]")
    focal_length: float = Field(gt=0, description="effective focal length [m]")
    pixel_size: float = Field(gt=0, description="side of a CCD pixel [µm]")
    minimum: float = Field(gt=0, description="short-wavelength edge of the passband [µm]")
    maximum: float = Field(gt=0, description="long-wavelength edge of the passband [µm]")
    discs: tuple[tuple[float, float, float], ...] = Field(
        default=(), description="round obstructions: x, y, diameter [mm]"
    )
    vanes: tuple[tuple[float, float, float, float, float], ...] = Field(
        default=(), description="vanes: x, y of the middle [mm], angle [deg], width, length [mm]"
    )
    pupil_samples: int = Field(
        default=256, ge=16, le=4096, multiple_of=2, description="samples across the pupil [1]"
    )
    pupil_grid: Literal["areas", "edges"] = Field(
        default="areas", description="as in the survey file's rendering"
    )
    binned: int | None = Field(
        default=None, ge=1, le=15, description="point samples along a pixel; unset: its integral"
    )
    normalised: Literal["stamp", "energy"] = Field(
        default="energy", description="each wavelength to 1 in the stamp, or in the focal plane"
    )
    diffusion: float = Field(
        default=0.0, ge=0, description="σ of the diffusion of charge in the detector [CCD pixel]"
    )

    @model_validator(mode="after")
    def _band_is_open(self) -> Self:
        if self.minimum >= self.maximum:
            msg = f"the passband ends at {self.maximum} µm, before it begins at {self.minimum} µm"
            raise ValueError(msg)
        return self

    @property
    def band_limit(self) -> float:
        """Highest spatial frequency of images, at the shortest wavelength [cycle/CCD pixel]."""
        return self.aperture * self.pixel_size / (self.focal_length * self.minimum)

    @classmethod
    def of(cls, instrument: Instrument) -> OpticsSettings:
        """The light path of an instrument."""
        telescope = instrument.optics_of("model wavediff")
        passband = instrument.passband_of("model wavediff")
        pupil, rendering = telescope.pupil, instrument.rendering
        cap = pupil.secondary
        return cls(
            aperture=telescope.aperture,
            focal_length=telescope.focal_length,
            pixel_size=instrument.detector.pixel_size,
            minimum=passband.minimum,
            maximum=passband.maximum,
            discs=() if cap is None else ((cap.x, cap.y, cap.diameter),),
            vanes=tuple((v.x, v.y, v.angle, v.width, v.length) for v in pupil.spiders),
            diffusion=(instrument.detector.diffusion or 0.0) / instrument.detector.pixel_size,
            **rendering.model_dump(),
        )


Switch = bool | Literal["auto"]


class WaveDiffSettings(BaseModel):
    """Settings of the wavefront field, `psfscale.models.wavediff.model.WaveDiff`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    optics: OpticsSettings | None = Field(
        default=None, description="the telescope; a survey file gives it"
    )
    n_zernikes: int = Field(
        default=45, ge=4, le=136, description="last Noll index of the parametric wavefront [1]"
    )
    degree: int = Field(
        default=2, ge=0, le=6, description="degree of each Zernike coefficient in position [1]"
    )
    n_wavelengths: int = Field(
        default=10, ge=1, le=32, description="nodes of a broad-band spectrum [1]"
    )
    fluxes: Switch = Field(
        default="auto",
        description="fit each star's flux; auto: unless all are 1, within noise about their mean",
    )
    background: Switch = Field(
        default="auto", description="fit each star's background; auto: where it is significant"
    )
    centroids: Switch = Field(
        default="auto",
        description="fit each star's centre; auto: unless a smooth field explains the centres",
    )
    defocus: Switch = Field(
        default=False,
        description="fit each star's defocus, and predict the field that they follow; auto: where "
        "the stars' own lower χ² by more than noise would",
    )
    jitter: Switch | float = Field(
        default="auto",
        description="σ of a Gaussian blur [CCD pixel], or whether to fit it; "
        "auto: where it is significant",
    )
    jitter_shape: Literal["round", "elliptical"] = Field(
        default="round",
        description="elliptical: the blur that is fitted may be stretched along a direction, as "
        "by guiding; three numbers in place of one",
    )
    surfaces: Switch = Field(
        default="auto",
        description="wavefronts beyond the Zernikes; auto: where stars kept aside gain",
    )
    spatial: Literal["poly", "graph", "polygraph"] = Field(
        default="poly", description="functions of position that the surfaces follow"
    )
    surface_degree: int = Field(
        default=2, ge=0, le=8, description="degree of the surfaces in position [1]"
    )
    reserved: float = Field(
        default=0.25,
        ge=0.02,
        le=0.5,
        description="share of the stars kept aside, in turn, to judge the surfaces [1]",
    )
    seed: int = Field(default=0, ge=0, description="of the choice of those stars")
    fixed: tuple[int, int, int, int] = Field(
        default=(0, 0, 0, 0),
        description="sizes of a fixed wavefront: Zernikes and monomials of its polynomials, its "
        "points and their Zernikes; follow from what is given as `prior` [1]",
    )
    clip: float = Field(
        default=6.0,
        gt=0,
        description="stars whose χ² stands out by more are clipped [robust σ]",
    )
    min_snr: float = Field(
        default=5.0, gt=0, description="stars of lower signal-to-noise are not fitted [1]"
    )
    min_stars: int = Field(default=6, ge=1, description="fewest usable stars of a fit [1]")
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="where to compute: auto (the first free accelerator, else cpu), cpu, cuda:k",
    )

    @model_validator(mode="after")
    def _jitter_is_a_width(self) -> Self:
        if isinstance(self.jitter, float) and not 0 <= self.jitter < math.inf:
            msg = f"jitter is a width [CCD pixel], auto, true or false; got {self.jitter}"
            raise ValueError(msg)
        return self

    @property
    def n_surfaces(self) -> int:
        """Functions of position of the surfaces; without surfaces 1, all zero."""
        one = (self.surface_degree + 1) * (self.surface_degree + 2) // 2
        if self.surfaces is False:
            return 1
        return 2 * one - 1 if self.spatial == "polygraph" else one

    @property
    def n_functions(self) -> int:
        """Functions of position of the parametric wavefront."""
        return (self.degree + 1) * (self.degree + 2) // 2
