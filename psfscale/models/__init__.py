"""PSF fields: fitted to the stars of a CCD, evaluated anywhere on it.

`MODELS` and `SETTINGS` name them; a class is imported, and torch with it, only when asked
for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from psfscale.errors import ConfigError
from psfscale.models.rca.settings import RCASettings
from psfscale.models.sprite.settings import SpriteFieldSettings
from psfscale.models.wavediff.settings import WaveDiffSettings

if TYPE_CHECKING:
    from pydantic import BaseModel

    from psfscale.models.base import PsfModel

__all__ = ["CHROMATIC", "MODELS", "SETTINGS", "load_model_class", "settings_class"]

MODELS: dict[str, str] = {
    "rca": "psfscale.models.rca.model:RCA",
    "sprite": "psfscale.models.sprite.field:SpriteField",
    "wavediff": "psfscale.models.wavediff.model:WaveDiff",
}
"""Name of a model and where its class stands."""

SETTINGS: dict[str, type[BaseModel]] = {
    "rca": RCASettings,
    "sprite": SpriteFieldSettings,
    "wavediff": WaveDiffSettings,
}
"""Name of a model and the class of its settings."""

CHROMATIC: frozenset[str] = frozenset({"wavediff"})
"""Models that know colour; they are fields over a whole focal plane, too."""


def _require_name(name: str) -> None:
    if name not in MODELS:
        msg = f"there is no PSF model {name!r}; choose one of {sorted(MODELS)}"
        raise ConfigError(msg)


def settings_class(name: str) -> type[BaseModel]:
    """The settings of a model, without importing the model.

    Raises
    ------
    ConfigError
        There is no such model.
    """
    _require_name(name)
    return SETTINGS[name]


def load_model_class(name: str) -> type[PsfModel]:
    """The class of a model, imported now.

    Raises
    ------
    ConfigError
        There is no such model.
    """
    _require_name(name)
    module, _, attribute = MODELS[name].partition(":")
    loaded: Any = getattr(import_module(module), attribute)
    model: type[PsfModel] = loaded
    return model
