"""Lists of settings for people, and the JSON schema of the run file for editors."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from psfscale.config import RunConfig
from psfscale.deconvolve.settings import DeconvolutionSettings
from psfscale.errors import ConfigError
from psfscale.models import SETTINGS
from psfscale.names import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

__all__ = ["SECTIONS", "run_schema", "settings_text"]

SECTIONS: dict[str, tuple[type[BaseModel], str]] = {
    "run": (RunConfig, "Keys of a run file."),
    **{
        name: (
            kind,
            f"Settings of the PSF model {name}: `model.settings` of a run file, `--set` of fit.",
        )
        for name, kind in SETTINGS.items()
    },
    "deconvolve": (
        DeconvolutionSettings,
        "Settings of the restoration of galaxies: `restore.settings` of a run file.",
    ),
}
"""Models of settings by the name that a user asks for, each with its place."""


def settings_text(name: str) -> str:
    """Return the settings of a model, of the restoration or of a run file, one paragraph each.

    Raises
    ------
    ConfigError
        There are no settings of this name.
    """
    if name not in SECTIONS:
        near = nearest(name, SECTIONS)
        msg = f"there are no settings {name!r}{near}; choose one of {', '.join(SECTIONS)}"
        raise ConfigError(msg)
    kind, place = SECTIONS[name]
    rows = "\n".join(_row(path, field) for path, field in _fields(kind))
    return f"{place}\n\n{rows}\n"


def _fields(kind: type[BaseModel], above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield the fields of a settings class, those of its parts under dotted names."""
    for name, field in kind.model_fields.items():
        part: Any = field.annotation
        if hasattr(part, "model_fields"):
            yield from _fields(part, f"{above}{name}.")
        else:
            yield f"{above}{name}", field


def _row(path: str, field: FieldInfo) -> str:
    default = "required" if field.is_required() else _written(field)
    meaning = textwrap.fill(
        field.description or "", width=96, initial_indent="    ", subsequent_indent="    "
    )
    return f"{path} = {default}\n{meaning}"


def _written(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return "unset" if value is None else str(getattr(value, "value", value))


def run_schema() -> dict[str, Any]:
    """Return the JSON schema of a run file, with the settings of each model by its name."""
    schema = RunConfig.model_json_schema()
    parts = schema["$defs"]
    kinds: dict[str, type[BaseModel]] = {**SETTINGS, "deconvolve": DeconvolutionSettings}
    for name, kind in kinds.items():
        own = kind.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
        inner = {f"{name}.{key}": part for key, part in own.pop("$defs", {}).items()}
        for part in (own, *inner.values()):  # a survey supplies what a run file leaves out
            part.pop("required", None)
        parts |= {**inner, f"{name}.settings": own}
    choice = parts["ModelChoice"]
    choice["allOf"] = [
        {
            "if": {"properties": {"name": {"const": name}}, "required": ["name"]},
            "then": {"properties": {"settings": {"$ref": f"#/$defs/{name}.settings"}}},
        }
        for name in SETTINGS
    ]
    parts["RestoredGalaxies"]["properties"]["settings"] = {"$ref": "#/$defs/deconvolve.settings"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
