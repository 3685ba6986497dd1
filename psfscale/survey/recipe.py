"""How the files of a survey are read: formats, header cards, column maps, units.

A recipe has one of three formats:

==========  ===============================================================
``ldac``    SExtractor FITS_LDAC catalogues with VIGNET stamps
``images``  FITS exposures and catalogues; the stamps are cut from the pixels
``stack``   ``.npy`` or ``.npz`` stacks of stamps
==========  ===============================================================
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from psfscale.survey.columns import Column, ColumnName
from psfscale.survey.instrument import Part
from psfscale.survey.selection import Cut, SampleRecipe, SampleValue
from psfscale.survey.sources import Names, NumberSource, Section, TextSource, require_regex

__all__ = [
    "CatalogueRecipe",
    "Column",
    "ColumnMap",
    "Cut",
    "ImagesRecipe",
    "IngestRecipe",
    "LdacRecipe",
    "NumberSource",
    "ObjectsRecipe",
    "Plane",
    "ScienceHdus",
    "StackRecipe",
    "TextSource",
]


class ColumnMap(Part):
    """Which column holds what."""

    id: ColumnName | None = Field(default=None, description="id; the row number if left out")
    ccd: ColumnName | None = Field(default=None, description="CCD id of the object")
    x: ColumnName | None = Field(default=None, description="column of the image [pixel]")
    y: ColumnName | None = Field(default=None, description="row of the image [pixel]")
    ra: ColumnName | None = Field(default=None, description="right ascension, ICRS")
    dec: ColumnName | None = Field(default=None, description="declination, ICRS")
    flux: ColumnName | None = Field(default=None, description="flux; NaN if left out")
    snr: ColumnName | None = Field(default=None, description="S/N; from the stamp if left out")
    flags: ColumnName | None = Field(default=None, description="not 0: flagged by the catalogue")
    sed: ColumnName | None = Field(
        default=None,
        description="spectrum: name or number (from 1) of a template; empty or 0: flat",
    )


class ObjectsRecipe(Part):
    """Which rows and columns of a catalogue are taken."""

    columns: ColumnMap
    origin: Literal[0, 1] = Field(
        default=1, description="x and y of the first pixel's centre: 1 in FITS, 0 in numpy"
    )
    ids: Literal["exposure", "survey"] = Field(
        default="exposure",
        description="survey: an id is that of one object in all exposures, and decides its role",
    )
    select: SampleValue = Field(
        default_factory=SampleRecipe, description="which rows are taken; a list is one of cuts"
    )

    @model_validator(mode="after")
    def _positions(self) -> Self:
        for one, other in (("x", "y"), ("ra", "dec")):
            if (getattr(self.columns, one) is None) != (getattr(self.columns, other) is None):
                msg = f"columns {one} and {other} go together: give both or neither"
                raise ValueError(msg)
        if self.ids == "survey" and self.columns.id is None:
            msg = "ids: survey needs a column id: row numbers are those of one catalogue"
            raise ValueError(msg)
        return self


class StampObjects(ObjectsRecipe):
    """A catalogue that holds the stamps themselves."""

    image: str = Field(default="VIGNET", description="column of the stamps")

    @model_validator(mode="after")
    def _pixel_positions(self) -> Self:
        if self.columns.x is None:
            msg = "columns x and y are needed"
            raise ValueError(msg)
        return self


class CatalogueRecipe(ObjectsRecipe):
    """A catalogue beside the exposures: FITS table, LDAC, ECSV, CSV or Parquet, by its suffix.

    `path` may hold ``{directory}``, ``{root}`` (the folder above), ``{stem}`` (the image's
    name up to its first dot), ``{exposure}``, ``{ccd}`` and the groups of `filename`.
    """

    path: str = Field(description="pattern of the catalogue's path")
    hdu: str | None = Field(default=None, description="EXTNAME of the table; the first if unset")
    positions: Literal["pixel", "sky"] = Field(
        default="pixel", description="cut at x, y or, through the WCS, at ra, dec"
    )
    stamp_size: tuple[Annotated[int, Field(ge=3)], Annotated[int, Field(ge=3)]] = Field(
        description="(y, x) pixels of the stamps; one number for squares"
    )

    @field_validator("stamp_size", mode="before")
    @classmethod
    def _square(cls, raw: Any) -> Any:
        return (raw, raw) if isinstance(raw, int) else raw

    @model_validator(mode="after")
    def _has_positions(self) -> Self:
        wanted = ("x", "y") if self.positions == "pixel" else ("ra", "dec")
        if getattr(self.columns, wanted[0]) is None:
            msg = f"positions: {self.positions} needs columns {wanted[0]} and {wanted[1]}"
            raise ValueError(msg)
        return self


class ScienceHdus(Part):
    """Which HDUs of a file are CCDs."""

    extname: str | None = Field(
        default=None, description="regular expression of the EXTNAME; all 2-D images if unset"
    )

    _extname = field_validator("extname")(require_regex)


class Plane(Part):
    """An image of the same shape beside each science image.

    It is the HDU of name `extname` (which may hold ``{ccd}``, ``{extname}`` and the groups
    of the science HDU's regular expression) and of the science HDU's EXTVER; without
    `extname`, the image HDU of the same rank.
    """

    extname: str | None = Field(default=None, description="pattern of the EXTNAME")
    path: str | None = Field(default=None, description="pattern of a sibling file; same if unset")

    @model_validator(mode="after")
    def _elsewhere(self) -> Self:
        if self.extname is None and self.path is None:
            msg = "give extname, path or both: the plane cannot be the science image itself"
            raise ValueError(msg)
        return self


class WeightPlane(Plane):
    """Noise of each pixel, in the unit of the image."""

    kind: Literal["inverse_variance", "variance", "rms"]
    trusted: bool = Field(
        default=False, description="take them as stated, even where the sky says otherwise"
    )


class MaskPlane(Plane):
    """Bad pixels."""

    bits: int | None = Field(default=None, ge=1, description="bits that mask; any if unset")


class BackgroundPlane(Plane):
    """Background of each pixel, in the unit of the image."""

    kind: Literal["plane"]


class NoBackground(Part):
    """The background is subtracted already."""

    kind: Literal["subtracted"]
    sky: NumberSource | None = Field(
        default=None, description="what was subtracted, for the noise and the saturation"
    )


class CardBackground(Part):
    """One background for the whole CCD."""

    kind: Literal["card"]
    level: NumberSource = Field(description="level to subtract")


class MeshBackground(Part):
    """Background measured on a mesh over the CCD, objects clipped."""

    kind: Literal["mesh"]
    box: int = Field(default=64, ge=8, description="side of a mesh cell [pixel]")
    filter: int = Field(default=3, ge=1, description="cells of the median filter")


Background = Annotated[
    NoBackground | CardBackground | BackgroundPlane | MeshBackground, Field(discriminator="kind")
]


class _Recipe(Part):
    """What all formats share."""

    exposure: TextSource = Field(description="id of the exposure")
    ccd: TextSource | None = Field(default=None, description="id of the CCD, an integer")
    skip_ccds: tuple[int, ...] = Field(default=(), description="CCDs left out on purpose")
    ccds_may_be_absent: bool = Field(
        default=False,
        description="an exposure is complete with whatever CCDs its files hold; else it needs all",
    )
    time: NumberSource | None = Field(default=None, description="start of the exposure, MJD")
    filter: TextSource | None = Field(default=None, description="filter")
    ra: NumberSource | None = Field(default=None, description="pointing, right ascension")
    dec: NumberSource | None = Field(default=None, description="pointing, declination")
    filename: str | None = Field(
        default=None, description="regular expression of the file name, with named groups"
    )
    unit: str | None = Field(default=None, description="unit of the pixels; BUNIT if unset")
    exposure_time: NumberSource | None = Field(
        default=None, description="needed where the pixels are rates"
    )
    gain: NumberSource | None = Field(default=None, description="the instrument's if unset")
    saturation: NumberSource | None = Field(
        default=None, description="pixels at or above are masked; the instrument's if unset"
    )
    sections: tuple[Section, ...] = Field(
        default=(),
        description="parts of a CCD with gains of their own; a pixel of none is masked",
    )
    source_noise: bool = Field(
        default=False, description="add the object's own Poisson noise to the variance"
    )
    reserved_fraction: float = Field(
        default=0.2, ge=0, lt=1, description="share of the stars kept for validation"
    )

    _filename = field_validator("filename")(require_regex)


class LdacRecipe(_Recipe):
    """SExtractor FITS_LDAC: pairs of LDAC_IMHEAD and LDAC_OBJECTS, one pair a CCD."""

    format: Literal["ldac"]
    stars: StampObjects
    sky_noise: NumberSource | None = Field(
        default=None, description="rms of the sky in a pixel; measured on the stamps if unset"
    )
    sky: NumberSource | None = Field(
        default=None, description="background that was subtracted, for the saturation"
    )


class ImagesRecipe(_Recipe):
    """FITS exposures, several CCDs a file or one, and catalogues beside them."""

    format: Literal["images"]
    science: ScienceHdus = Field(default_factory=ScienceHdus)
    weight: WeightPlane | None = Field(default=None, description="noise; modelled if unset")
    mask: MaskPlane | None = Field(default=None, description="bad pixels")
    background: Background = Field(description="what is to be subtracted")
    read_noise: NumberSource | None = Field(
        default=None, description="for the noise model; the instrument's if unset"
    )
    stars: CatalogueRecipe
    galaxies: CatalogueRecipe | None = Field(default=None, description="galaxies, if wanted")

    @model_validator(mode="after")
    def _stars_alone_are_sampled(self) -> Self:
        if self.galaxies is not None and self.galaxies.select.needs_pixels:
            msg = "galaxies.select takes cuts; match and size_magnitude choose stars"
            raise ValueError(msg)
        return self


class StackRecipe(_Recipe):
    """Stamps in ``.npz`` arrays or in the fields of a structured ``.npy``.

    A stack does not tell a CCD without stars from one that is absent.
    """

    format: Literal["stack"]
    ccds_may_be_absent: Literal[True] = Field(default=True, description="always so")
    image: Names = Field(default=("image", "stamps", "stars"), description="key of the stamps")
    weight: str | None = Field(default=None, description="key of the inverse variances")
    sigma: str | None = Field(default=None, description="key of the noise rms: object or one")
    mask: str | None = Field(default=None, description="key of the mask, not 0 = bad")
    stars: ObjectsRecipe
    catalogue: str | None = Field(
        default=None, description="pattern of a table that holds the columns instead"
    )
    sed: str | None = Field(
        default=None, description="key of the stars' spectra (star, bin), photons per bin"
    )
    wavelength: str | None = Field(default=None, description="key of the bins' centres [µm]")

    @model_validator(mode="after")
    def _one_noise(self) -> Self:
        if self.weight is not None and self.sigma is not None:
            msg = "give weight or sigma, not both"
            raise ValueError(msg)
        if self.stars.columns.x is None:
            msg = "stars.columns x and y are needed"
            raise ValueError(msg)
        if (self.sed is None) != (self.wavelength is None):
            msg = "sed and wavelength go together: give both or neither"
            raise ValueError(msg)
        return self


IngestRecipe = Annotated[LdacRecipe | ImagesRecipe | StackRecipe, Field(discriminator="format")]
"""How exposures and catalogues of a survey become a survey store."""
