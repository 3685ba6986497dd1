"""A PSF model of a run: its settings resolved, and what one field of it covers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from psfscale.models import CHROMATIC, load_model_class, settings_class
from psfscale.models.wavediff.settings import OpticsSettings
from psfscale.yamlfile import validate

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from pydantic import BaseModel

    from psfscale.config import ModelChoice
    from psfscale.models.base import PsfModel, StateArray
    from psfscale.survey import Instrument

__all__ = ["FittedModel", "resolve_settings"]


def resolve_settings(name: str, given: dict[str, Any], instrument: Instrument | None) -> BaseModel:
    """Return the settings of a model, every one of them resolved.

    What is not given follows the instrument where it says something (``upsampling``,
    ``optics`` key by key, and ``band_limit`` where the model's grid does not already cut below
    it), else the defaults.

    Raises
    ------
    ConfigError
        There is no such model, or no such setting, or a value is wrong.
    """
    kind = settings_class(name)
    if instrument is not None and "optics" in kind.model_fields:
        telescope = OpticsSettings.of(instrument).model_dump()
        given = {**given, "optics": {**telescope, **(given.get("optics") or {})}}
    settings = validate(given, kind, name=f"settings of model {name!r}")
    if instrument is None:
        return settings
    open_keys = set(kind.model_fields) - settings.model_fields_set
    if "upsampling" in open_keys:
        given = {**given, "upsampling": instrument.psf.upsampling}
        settings = validate(given, kind, name=f"settings of model {name!r}")
    finest = getattr(settings, "fine_upsampling", getattr(settings, "upsampling", 1))
    band_limit = instrument.band_limit
    if "band_limit" in open_keys and band_limit is not None and band_limit < finest / 2:
        given = {**given, "band_limit": band_limit}
    return validate(given, kind, name=f"settings of model {name!r}")


@dataclass(frozen=True, kw_only=True)
class FittedModel:
    """A PSF model that a run fits.

    Attributes
    ----------
    name : in `psfscale.models`
    settings : frozen, all resolved
    per : what one field of it covers
    """

    name: str
    settings: BaseModel
    per: Literal["ccd", "exposure"]

    @classmethod
    def of(cls, choice: ModelChoice, instrument: Instrument | None) -> Self:
        """Return a model of the run, with its resolved settings."""
        usual: Literal["ccd", "exposure"] = "exposure" if choice.name in CHROMATIC else "ccd"
        settings = resolve_settings(choice.name, choice.settings, instrument)
        return cls(name=choice.name, settings=settings, per=choice.per or usual)

    @property
    def kind(self) -> type[PsfModel]:
        """The model's class; the first use imports its module."""
        return load_model_class(self.name)

    @property
    def chromatic(self) -> bool:
        """Whether the PSF depends on the object's spectrum."""
        return self.name in CHROMATIC

    @property
    def of_exposure(self) -> bool:
        """Whether one field of it covers all CCDs of an exposure."""
        return self.per == "exposure"

    def state_arrays(self, stamp_shape: tuple[int, int]) -> tuple[StateArray, ...]:
        """Return the arrays of its state, for star stamps (y, x)."""
        return tuple(self.kind.state_arrays(self.settings, stamp_shape))

    def simpler(self) -> tuple[tuple[str, BaseModel], ...]:
        """Return settings of simpler fields that may stand in for it, each with a name."""
        ladder: Any = getattr(self.settings, "simpler", tuple)
        return () if self.of_exposure else tuple(ladder())

    def build(self, device: str) -> PsfModel:
        """Return a field to be fitted, on `device` where its settings leave that open."""
        return self.kind(self._on(device))  # type: ignore[call-arg]

    def restore(self, state: Mapping[str, np.ndarray], device: str) -> PsfModel:
        """Return the field of a state, on `device` where its settings leave that open."""
        return self.kind.from_state(state, self._on(device))

    def _on(self, device: str) -> BaseModel:
        if getattr(self.settings, "device", None) != "auto":
            return self.settings
        return self.settings.model_copy(update={"device": device})
