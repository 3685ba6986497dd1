"""Surveys as data: ``catalogs/*.yaml`` read into a frozen `Survey`.

A survey is added by writing a YAML file: the instrument with unit and source of every
value, the recipe by which its files are ingested and, where wanted, the recipe by which
its exposures are simulated. No Python is touched.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, ValidationError
from yaml import YAMLError

from psfscale.errors import ConfigError
from psfscale.survey.instrument import Instrument, Part
from psfscale.survey.recipe import IngestRecipe
from psfscale.survey.sky import SkyRecipe

__all__ = ["Survey", "load_survey"]


class Survey(Part):
    """An instrument, how its files are read, and how it is simulated."""

    name: str = Field(description="short name, as in file names")
    instrument: Instrument
    ingest: IngestRecipe
    simulate: SkyRecipe | None = Field(default=None, description="the sky to draw, if any")


def load_survey(path: Path | str, overrides: list[str] | None = None) -> Survey:
    """Read a survey file.

    Parameters
    ----------
    path : of a YAML file such as ``catalogs/euclid_vis.yaml``
    overrides : ``key.sub=value`` items laid over the file

    Raises
    ------
    ConfigError
        The file is missing, is not YAML, has an unknown or missing key, a value without
        unit or source, or a unit that is unknown or of the wrong kind.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"no survey file at {path}; the packaged ones lie in catalogs/"
        raise ConfigError(msg)
    try:
        tree = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(overrides or []))
        raw = OmegaConf.to_container(tree, resolve=True)
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        msg = f"{path} is not a readable survey file: {error}"
        raise ConfigError(msg) from error
    try:
        return Survey.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(explain(path, error)) from error


def explain(path: Path, error: ValidationError) -> str:
    """One line a wrong key: where it stands and what is wrong with it."""
    lines = [
        f"  {'.'.join(str(part) for part in item['loc'])}: {item['msg'].removeprefix('Value error, ')}"
        for item in error.errors()
    ]
    return "\n".join([f"{path} is not valid:", *lines])
