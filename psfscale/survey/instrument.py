"""Telescope, passband and detector of a survey, as its YAML file states them."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from psfscale.errors import ConfigError
from psfscale.survey.quantity import (
    ArcsecPerPixel,
    Degree,
    Electron,
    ElectronPerAdu,
    Metre,
    Micron,
    Millimetre,
    Pure,
)

_ARCSEC = math.pi / (180 * 3600)


class Part(BaseModel):
    """Base of everything read from a survey file: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Disc(Part):
    """A round obstruction of the pupil."""

    diameter: Millimetre = Field(description="diameter [mm]")
    x: Millimetre = Field(description="centre from the axis [mm]")
    y: Millimetre = Field(description="centre from the axis [mm]")


class Spider(Part):
    """A straight vane that holds the secondary mirror."""

    angle: Degree = Field(description="direction of the vane from the x axis [deg]")
    x: Millimetre = Field(description="x of its middle from the axis [mm]")
    y: Millimetre = Field(description="y of its middle from the axis [mm]")
    width: Millimetre = Field(description="width [mm]")
    length: Millimetre = Field(description="length; the vane is cut to a disc of this diameter")


class Pupil(Part):
    """What of the entrance pupil lets light through."""

    secondary: Disc | None = Field(default=None, description="central obstruction")
    spiders: tuple[Spider, ...] = Field(default=(), description="vanes")


class Telescope(Part):
    """The light path up to the detector."""

    aperture: Metre = Field(description="diameter of the entrance pupil [m]")
    focal_length: Metre = Field(description="effective focal length [m]")
    pupil: Pupil = Field(default_factory=Pupil, description="obstructions of the pupil")


def _words(raw: Any) -> Any:
    return (raw,) if isinstance(raw, str) else raw


class Passband(Part):
    """Wavelengths that reach the detector."""

    minimum: Micron = Field(description="short-wavelength edge [µm]")
    maximum: Micron = Field(description="long-wavelength edge [µm]")
    filters: Annotated[tuple[str, ...], BeforeValidator(_words)] = Field(
        default=(),
        description="names of the filters that it is of, as exposures bear them; exposures in "
        "another are refused. Unset: any one filter",
    )


class Detector(Part):
    """One CCD, as read out."""

    pixel_scale: ArcsecPerPixel = Field(gt=0, description="side of a pixel on the sky [arcsec]")
    pixel_size: Micron = Field(gt=0, description="side of a pixel [µm]")
    columns: Annotated[int, Field(gt=0, description="pixels along x")]
    rows: Annotated[int, Field(gt=0, description="pixels along y")]
    gain: ElectronPerAdu = Field(gt=0, description="electrons per unit of the image [e/ADU]")
    read_noise: Electron = Field(ge=0, description="read noise, rms [electron]")
    saturation: Electron | None = Field(default=None, description="full well [electron]")
    diffusion: Micron | None = Field(
        default=None, description="σ of the diffusion of charge between pixels [µm]; unset: none"
    )


class GridLayout(Part):
    """CCDs in rows and columns, numbered along x first; the axis is in the middle."""

    kind: Literal["grid"]
    columns: Annotated[int, Field(gt=0, description="CCDs along x")]
    rows: Annotated[int, Field(gt=0, description="CCDs along y")]
    gap_x: Millimetre = Field(description="between neighbours along x [mm]")
    gap_y: Millimetre = Field(description="between neighbours along y [mm]")
    turned: tuple[int, ...] = Field(
        default=(), description="ids of CCDs mounted turned by half a turn in their plane"
    )

    def pitch(self, detector: Detector) -> tuple[float, float]:
        """From one CCD's middle to its neighbour's, along x and y [mm]."""
        return (
            detector.columns * detector.pixel_size * 1e-3 + self.gap_x,
            detector.rows * detector.pixel_size * 1e-3 + self.gap_y,
        )


class ReferencePixelLayout(Part):
    """Each CCD's place follows from its header: CRPIX1, CRPIX2 lie on the optical axis."""

    kind: Literal["reference_pixel"]


Layout = Annotated[GridLayout | ReferencePixelLayout, Field(discriminator="kind")]


class FocalPlane(Part):
    """Names and places of the CCDs."""

    first_ccd: int = Field(description="id of the first CCD; the others count up from it")
    n_ccds: int = Field(gt=0, description="number of CCDs")
    layout: Layout = Field(description="where the CCDs lie")

    @model_validator(mode="after")
    def _grid_holds_ccds(self) -> Self:
        grid = self.layout
        if isinstance(grid, GridLayout) and self.n_ccds > grid.columns * grid.rows:
            msg = f"{self.n_ccds} CCDs do not fit a grid of {grid.columns} x {grid.rows}"
            raise ValueError(msg)
        return self

    @property
    def ccd_ids(self) -> range:
        """Ids of the CCDs, in the order of the stored ``ccd`` axis."""
        return range(self.first_ccd, self.first_ccd + self.n_ccds)


class PsfScale(Part):
    """What is generally known of the PSF before any fit, for checks and defaults."""

    fwhm_minimum: ArcsecPerPixel = Field(gt=0, description="sharpest believable FWHM [arcsec]")
    fwhm_maximum: ArcsecPerPixel = Field(gt=0, description="widest believable FWHM [arcsec]")
    upsampling: Annotated[int, Field(ge=1, description="model pixels per CCD pixel")]


class Rendering(Part):
    """How a PSF is computed from the pupil, where that is done."""

    pupil_samples: Annotated[int, Field(ge=16, le=4096, multiple_of=2)] = Field(
        default=256, description="samples across the pupil"
    )
    pupil_grid: Literal["areas", "edges"] = Field(
        default="areas",
        description="areas: a sample is a square and blocks its blocked share; edges: points "
        "from edge to edge, propagated as if spaced by diameter / samples, as published",
    )
    binned: Annotated[int, Field(ge=1, le=15)] | None = Field(
        default=None,
        description="a pixel is the mean of so many point samples a side; unset: its integral",
    )
    normalised: Literal["stamp", "energy"] = Field(
        default="energy",
        description="each wavelength to 1 inside the stamp, or to 1 in the whole focal plane",
    )


class Instrument(Part):
    """All that is fixed of an instrument."""

    telescope: Telescope | None = Field(
        default=None, description="needed by models of the optics and to simulate"
    )
    passband: Passband | None = Field(
        default=None, description="needed by models of the optics, for spectra, and to simulate"
    )
    detector: Detector
    focal_plane: FocalPlane
    psf: PsfScale
    rendering: Rendering = Field(default_factory=Rendering, description="for models of the optics")
    zero_point: Pure | None = Field(default=None, description="magnitude of 1 electron a second")

    def optics_of(self, purpose: str) -> Telescope:
        """Return the telescope, which `purpose` needs.

        Raises
        ------
        ConfigError
            The instrument states none.
        """
        if self.telescope is None:
            raise ConfigError(_not_stated("telescope", "aperture and focal_length", purpose))
        return self.telescope

    def passband_of(self, purpose: str) -> Passband:
        """Return the passband, which `purpose` needs.

        Raises
        ------
        ConfigError
            The instrument states none.
        """
        if self.passband is None:
            raise ConfigError(_not_stated("passband", "minimum and maximum", purpose))
        return self.passband

    @property
    def band_limit(self) -> float | None:
        """Highest spatial frequency the aperture passes, in cycles per CCD pixel.

        None where telescope or passband are not stated.

        The optical transfer function of an aperture D at wavelength λ ends at D/λ cycles
        per radian; the shortest wavelength of the passband sets the end.
        """
        if self.telescope is None or self.passband is None:
            return None
        pixel = self.detector.pixel_scale * _ARCSEC
        return pixel * self.telescope.aperture / (self.passband.minimum * 1e-6)

    def ccd_centre(self, ccd: int) -> tuple[float, float]:
        """Focal-plane position (x, y) [mm] of the middle of a CCD of a grid layout.

        Raises
        ------
        ConfigError
            There is no such CCD, or the layout is not a grid.
        """
        layout = self.focal_plane.layout
        if not isinstance(layout, GridLayout):
            msg = f"a layout of kind {layout.kind!r} does not say where CCD {ccd} lies; use a grid"
            raise ConfigError(msg)
        if ccd not in self.focal_plane.ccd_ids:
            ids = self.focal_plane.ccd_ids
            msg = f"no CCD {ccd}; the CCDs are {ids.start} to {ids.stop - 1}"
            raise ConfigError(msg)
        row, column = divmod(ccd - self.focal_plane.first_ccd, layout.columns)
        pitch_x, pitch_y = layout.pitch(self.detector)
        return (
            (column - (layout.columns - 1) / 2) * pitch_x,
            (row - (layout.rows - 1) / 2) * pitch_y,
        )


def _not_stated(part: str, keys: str, purpose: str) -> str:
    return f"{purpose} needs instrument.{part} ({keys}), which the survey file does not state"
