"""Which rows of a catalogue are taken: cuts on columns, a list of stars, the stellar locus."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from psfscale.survey.columns import Column, ColumnName
from psfscale.survey.instrument import Part

__all__ = ["Cut", "SampleRecipe", "SampleValue", "SizeMagnitude", "StarListRecipe"]


def _values(raw: Any) -> Any:
    return raw if raw is None or isinstance(raw, (list, tuple)) else (raw,)


class Cut(Part):
    """A condition that a row must meet to be taken."""

    column: str = Field(description="name of the column")
    element: int | None = Field(default=None, ge=0, description="of a vector column, from 0")
    minimum: float | None = Field(default=None, description="smallest value taken")
    maximum: float | None = Field(default=None, description="largest value taken")
    bits_clear: int | None = Field(default=None, ge=1, lt=2**63, description="bits that must be 0")
    equals: Annotated[tuple[bool | int | float | str, ...] | None, BeforeValidator(_values)] = (
        Field(default=None, min_length=1, description="values taken: a word, a number, or several")
    )

    @property
    def as_column(self) -> Column:
        """The column that is looked at."""
        return Column(name=(self.column,), element=self.element)


class SizeMagnitude(Part):
    """Stars by size: those on the locus of the sizes of a CCD or an exposure."""

    snr_minimum: float = Field(
        default=50.0, gt=0, description="least S/N; it rises where galaxies cannot be told apart"
    )
    galaxies: float = Field(
        default=0.002, gt=0, lt=1, description="largest share of galaxies, counted beside the locus"
    )
    below: float = Field(
        default=4.0, gt=0, description="half-width of the locus towards small sizes [sigma]"
    )
    above: float = Field(
        default=2.2, gt=0, description="half-width of the locus towards large sizes [sigma]"
    )
    degree: int = Field(
        default=2, ge=0, le=4, description="largest degree of the sizes' trend over the field"
    )
    fewest: int = Field(default=20, ge=10, description="stars that make a locus")
    region: Literal["auto", "ccd", "exposure"] = Field(
        default="auto",
        description="field of a locus; auto: the CCD, or the exposure where the CCD has too few",
    )


class StarListRecipe(Part):
    """A list of stars on the sky, such as Gaia's, joined to the catalogue by position."""

    path: str = Field(
        description="of a FITS, ECSV, CSV or Parquet table; a pattern as that of a catalogue"
    )
    hdu: str | None = Field(default=None, description="EXTNAME of the table; the first if unset")
    radius: float = Field(default=1.0, gt=0, description="largest separation [arcsec]")
    ra: ColumnName = Field(
        default=Column(name=("ra", "RA", "ALPHA_J2000")), description="right ascension, ICRS"
    )
    dec: ColumnName = Field(
        default=Column(name=("dec", "DEC", "DELTA_J2000")), description="declination, ICRS"
    )
    pmra: ColumnName = Field(
        default=Column(name=("pmra", "pmRA", "PMRA")),
        description="proper motion in right ascension, with cos(dec) [mas/yr]; none without column",
    )
    pmdec: ColumnName = Field(
        default=Column(name=("pmdec", "pmDE", "PMDEC")),
        description="proper motion in declination [mas/yr]",
    )
    ref_epoch: ColumnName = Field(
        default=Column(name=("ref_epoch", "REF_EPOCH")),
        description="epoch of the positions [Julian year]",
    )
    epoch: float | None = Field(
        default=None, description="epoch of all positions, without such a column [Julian year]"
    )
    id: ColumnName = Field(
        default=Column(name=("source_id", "SOURCE_ID")),
        description="id of the star; its position without it",
    )


def _list_of_stars(raw: Any) -> Any:
    return {"path": raw} if isinstance(raw, str) else raw


def _locus(raw: Any) -> Any:
    return {} if raw == "auto" else raw


class SampleRecipe(Part):
    """Which rows are taken. In YAML, a bare list is the list of cuts.

    The cuts come first, then the list of stars, then the stellar locus of what is left.
    """

    cuts: tuple[Cut, ...] = Field(default=(), description="conditions on columns")
    match: Annotated[StarListRecipe | None, BeforeValidator(_list_of_stars)] = Field(
        default=None, description="list of stars; a path, or a mapping"
    )
    size_magnitude: Annotated[SizeMagnitude | None, BeforeValidator(_locus)] = Field(
        default=None, description="stellar locus; auto: by the default settings"
    )

    @property
    def needs_pixels(self) -> bool:
        """Whether rows are chosen by more than the columns of their catalogue."""
        return self.match is not None or self.size_magnitude is not None


def _cuts(raw: Any) -> Any:
    return {"cuts": raw} if isinstance(raw, (list, tuple)) else raw


SampleValue = Annotated[SampleRecipe, BeforeValidator(_cuts)]
