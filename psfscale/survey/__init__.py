"""Surveys as data: ``catalogs/*.yaml`` read into a frozen `Survey`.

A survey is added by writing a YAML file: the instrument, each value with its unit, the recipe by
which its files are ingested and, where wanted, the recipe by which its exposures are simulated. No
Python is touched; `write_template` gives a file to begin with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from psfscale.survey.instrument import Instrument, Part
from psfscale.survey.recipe import IngestRecipe
from psfscale.survey.simulation import SkyRecipe
from psfscale.survey.spectra import SpectraRecipe
from psfscale.survey.template import write_template
from psfscale.yamlfile import read_yaml

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Instrument", "Survey", "load_survey", "write_template"]


class Survey(Part):
    """An instrument, how its files are read, and how it is simulated."""

    name: str = Field(description="short name, as in file names")
    instrument: Instrument
    ingest: IngestRecipe
    spectra: SpectraRecipe | None = Field(
        default=None, description="spectra that the catalogues name; flat ones if unset"
    )
    simulate: SkyRecipe | None = Field(default=None, description="the sky to draw, if any")

    @model_validator(mode="after")
    def _spectra_are_known(self) -> Self:
        detector = self.instrument.detector
        for kind in ("stars", "galaxies"):
            side = getattr(getattr(self.ingest, kind, None), "stamp_size", (1, 1))
            if side[0] > detector.rows or side[1] > detector.columns:
                msg = f"ingest.{kind}.stamp_size {side} (y, x) is larger than the CCD"
                raise ValueError(msg)
        if self.simulate is not None:
            self.instrument.optics_of("simulate")
            self.instrument.passband_of("simulate")
        if self.spectra is not None and getattr(self.ingest, "sed", None) is not None:
            msg = "spectra come by template (spectra) or with each star (ingest.sed), not both"
            raise ValueError(msg)
        known = () if self.spectra is None else self.spectra.names
        if self.spectra is not None:
            self.spectra.table(self.instrument.passband_of("spectra"))
        drawn = () if self.simulate is None else (self.simulate.stars, self.simulate.galaxies)
        unknown = sorted({name for recipe in drawn for name in recipe.spectra} - set(known))
        if unknown:
            msg = f"simulate draws spectra {unknown}, spectra.templates has {list(known)}"
            raise ValueError(msg)
        return self


def load_survey(path: Path | str, overrides: Sequence[str] = ()) -> Survey:
    """Read a survey file such as ``catalogs/euclid_vis.yaml``.

    Parameters
    ----------
    path : of the YAML file
    overrides : ``key.sub=value`` items that replace values of the file

    Raises
    ------
    ConfigError
        The file is missing, is not YAML, has an unknown or missing key, a value without
        unit, or a unit that is unknown or of the wrong kind.
    """
    return read_yaml(path, Survey, overrides=overrides)
