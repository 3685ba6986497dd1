"""What a simulated survey looks like: stars, galaxies, PSF field, noise and defects."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from psfscale.survey.instrument import Part
from psfscale.survey.quantity import (
    Arcsec,
    Day,
    Degree,
    Electron,
    Micron,
    PerAreaAndTime,
    Pixels,
    Pure,
    Second,
)

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0)]


class Size(Part):
    """How much is drawn."""

    exposures: int = Field(ge=1, description="exposures")
    ccds: int | None = Field(
        default=None, ge=1, description="CCDs of each exposure, from the first on; all if unset"
    )
    stars: Count = Field(description="stars on each CCD")
    galaxies: Count = Field(description="galaxies on each CCD")


class Pointing(Part):
    """When and where the exposures are taken, one after the other."""

    filter: str = Field(description="name of the filter, written to the headers")
    exposure_time: Second = Field(gt=0, description="exposure time [s]")
    start: Day = Field(description="start of the first exposure, MJD [d]")
    interval: Second = Field(gt=0, description="from one start to the next [s]")
    ra: Degree = Field(ge=0, lt=360, description="right ascension of the first pointing [deg]")
    dec: Degree = Field(ge=-80, le=80, description="declination of all pointings [deg]")
    step: Degree = Field(description="from one pointing to the next, along the equator [deg]")
    roll: Degree = Field(
        default=0.0,
        description="position angle of the focal plane's y axis, north through east, first [deg]",
    )
    roll_step: Degree = Field(default=0.0, description="from one roll to the next [deg]")
    mirrored: bool = Field(
        default=False, description="the focal plane's x axis points east, not west, at roll 0"
    )


class OpticsRecipe(Part):
    """The PSF field: aberrations that vary over the focal plane and between exposures."""

    wavefront_error: Micron = Field(
        ge=0, description="rms over focal plane and pupil, tip and tilt left out [µm]"
    )
    zernikes: int = Field(ge=4, le=37, description="last Noll index of the aberrations, from 4")
    degree: int = Field(ge=0, le=6, description="degree of each coefficient in field position")
    exposure_scatter: Micron = Field(
        ge=0, description="rms change of the whole wavefront between exposures [µm]"
    )
    defocus_scatter: Micron = Field(
        ge=0, description="rms change of the defocus between exposures, on top [µm]"
    )
    jitter: Arcsec = Field(gt=0, description="Gaussian sigma of pointing and diffusion [arcsec]")
    wavelengths: int = Field(
        ge=1, le=64, description="equal bins of the passband at which PSFs are computed"
    )
    pupil_pixels: int = Field(
        ge=128,
        le=1024,
        multiple_of=2,
        description="pixels across 3 pupil diameters, at least; 256 is fine enough",
    )


class StarRecipe(Part):
    """The stars of a CCD: fluxes follow a power law, each star stands alone."""

    flux_minimum: Electron = Field(gt=0, description="faintest star [electron]")
    flux_maximum: Electron = Field(gt=0, description="brightest star [electron]")
    slope: Pure = Field(description="s of dN/dF ~ F^-s")
    separation: Pixels = Field(ge=0, description="no other object is nearer to a star [pixel]")
    spectra: dict[str, Share] = Field(
        default_factory=dict, description="shares of the stars by template; all flat if empty"
    )


class Sersic(Part):
    """A kind of galaxy, and how common it is."""

    index: Pure = Field(ge=0.5, le=6, description="Sersic index; 1 is an exponential disc")
    fraction: Pure = Field(ge=0, le=1, description="fraction of the galaxies")


class GalaxyRecipe(Part):
    """The galaxies of a CCD, before the PSF."""

    flux_minimum: Electron = Field(gt=0, description="faintest galaxy [electron]")
    flux_maximum: Electron = Field(gt=0, description="brightest galaxy [electron]")
    slope: Pure = Field(description="s of dN/dF ~ F^-s")
    half_light_radius: Arcsec = Field(gt=0, description="median half-light radius [arcsec]")
    half_light_radius_scatter: Pure = Field(ge=0, description="rms of its natural logarithm")
    half_light_radius_maximum: Arcsec = Field(gt=0, description="largest allowed [arcsec]")
    ellipticity: Pure = Field(ge=0, description="rms of e1 and of e2 (distortion)")
    ellipticity_maximum: Pure = Field(ge=0, lt=1, description="largest allowed |e|")
    sersic: tuple[Sersic, ...] = Field(min_length=1, description="kinds of galaxy")
    separation: Pixels = Field(ge=0, description="smallest distance of two galaxies [pixel]")
    spectra: dict[str, Share] = Field(
        default_factory=dict, description="shares of the galaxies by template; all flat if empty"
    )


class DefectRecipe(Part):
    """What spoils pixels, and CCDs."""

    cosmic_rays: PerAreaAndTime = Field(ge=0, description="hits [1/cm²/s]")
    track_length: Pixels = Field(gt=0, description="mean length of a hit's track [pixel]")
    track_charge: Electron = Field(gt=0, description="median charge in a hit pixel [electron]")
    masked_columns: Count = Field(description="dead columns of each CCD, in every exposure")
    starless: tuple[tuple[int, int], ...] = Field(
        default=(), description="(exposure index from 0, CCD id) of CCDs left with 2 stars"
    )


class MeasurementScatter(Part):
    """How the catalogue's measurements stray from the truth."""

    position_scatter: Pixels = Field(ge=0, description="rms of x and of y [pixel]")
    position_decimals: int = Field(ge=0, le=8, description="decimals that x and y keep")


class TruthRecipe(Part):
    """What is written of the truth besides its tables."""

    psf: bool = Field(default=True, description="write the PSF at every star and galaxy")
    oversampling: int = Field(default=3, ge=1, le=10, description="PSF pixels per CCD pixel")
    size: int = Field(default=63, ge=9, description="side of the PSF stamp [PSF pixel]")


class SkyRecipe(Part):
    """Everything the simulator draws, with its size as parameters."""

    seed: int = Field(ge=0, description="root of every random number")
    size: Size
    pointing: Pointing
    optics: OpticsRecipe
    sky: Electron = Field(ge=0, description="sky in a pixel of an exposure [electron]")
    stars: StarRecipe
    galaxies: GalaxyRecipe
    margin: Pixels = Field(ge=0, description="objects lie so far inside the CCD [pixel]")
    stamp: int = Field(ge=16, le=1024, description="side of the stamp of an object [pixel]")
    defects: DefectRecipe
    catalogue: MeasurementScatter
    truth: TruthRecipe = Field(default_factory=TruthRecipe)

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> Self:
        for name, recipe in (("stars", self.stars), ("galaxies", self.galaxies)):
            if recipe.flux_maximum <= recipe.flux_minimum:
                msg = (
                    f"{name}.flux_maximum ({recipe.flux_maximum} electron) must be larger than "
                    f"{name}.flux_minimum ({recipe.flux_minimum} electron)"
                )
                raise ValueError(msg)
            if recipe.spectra and not sum(recipe.spectra.values()):
                msg = f"all shares of {name}.spectra are 0; leave it out for flat spectra"
                raise ValueError(msg)
        total = sum(kind.fraction for kind in self.galaxies.sersic)
        if abs(total - 1) > 1e-6:
            msg = f"the fractions of galaxies.sersic must add up to 1, not to {total:g}"
            raise ValueError(msg)
        return self
