"""A run file with every setting written out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psfscale.deconvolve.settings import DeconvolutionSettings
from psfscale.models.fitted import FittedModel
from psfscale.store.index import is_index, read_index
from psfscale.store.stores import open_root
from psfscale.store.survey_instrument import require_survey_store, stored_instrument
from psfscale.survey import load_survey
from psfscale.yamlfile import validate

if TYPE_CHECKING:
    from psfscale.config import ModelChoice, RunConfig
    from psfscale.survey import Instrument

__all__ = ["resolved_config"]


def resolved_config(config: RunConfig) -> RunConfig:
    """Return a run file with the settings of its models and of its restoration written out.

    What follows the survey is that of `instrument` or of the survey store; where neither is there,
    the defaults stand.

    Raises
    ------
    ConfigError
        A setting is unknown or its value is wrong, or a model lacks what the survey says.
    """
    instrument = _instrument(config)
    restoration = validate(
        config.restore.settings, DeconvolutionSettings, name="restore.settings"
    ).model_dump(mode="json")
    restore = config.restore.model_copy(update={"settings": restoration})
    models = tuple(_resolved(choice, instrument) for choice in config.fitted)
    fitted = {"models": models} if config.models else {"model": models[0]}
    return config.model_copy(update={"restore": restore, **fitted})


def _resolved(choice: ModelChoice, instrument: Instrument | None) -> ModelChoice:
    model = FittedModel.of(choice, instrument)
    settings = model.settings.model_dump(mode="json")
    return choice.model_copy(update={"settings": settings, "per": model.per})


def _instrument(config: RunConfig) -> Instrument | None:
    if config.instrument is not None:
        return load_survey(config.instrument).instrument
    if not config.survey.exists():
        return None
    first = read_index(config.survey)[0] if is_index(config.survey) else config.survey
    root = open_root(first)
    require_survey_store(root, first)
    return stored_instrument(root)
