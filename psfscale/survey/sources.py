"""Where a word or a number of an exposure or a CCD stands: card, file name, column, or here."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from psfscale.survey.instrument import Part

__all__ = ["Names", "NumberSource", "Section", "TextSource", "require_regex"]


def _names(raw: Any) -> Any:
    return (raw,) if isinstance(raw, str) else raw


Names = Annotated[
    tuple[str, ...], BeforeValidator(_names), Field(min_length=1, description="first present wins")
]


def require_regex(text: str | None) -> str | None:
    """Return `text`, which is a regular expression."""
    if text is not None:
        try:
            re.compile(text)
        except re.error as error:
            msg = f"{text!r} is not a regular expression: {error}"
            raise ValueError(msg) from error
    return text


def _require_one(part: Part, *choices: str) -> None:
    given = [name for name in choices if getattr(part, name) is not None]
    if len(given) != 1:
        msg = f"expected exactly one of {', '.join(choices)}, got {given or 'none'}"
        raise ValueError(msg)


def _word(raw: Any) -> Any:
    return str(raw) if isinstance(raw, int) and not isinstance(raw, bool) else raw


class TextSource(Part):
    """Where a word of a CCD or an exposure stands, such as its id or its filter."""

    card: Names | None = Field(default=None, description="header card; EXTNAME, EXTVER included")
    group: str | None = Field(default=None, description="group of the recipe's `filename`")
    key: str | None = Field(default=None, description="array of a stack")
    value: Annotated[str | None, BeforeValidator(_word)] = Field(
        default=None, description="the word itself"
    )
    pattern: str | None = Field(
        default=None, description="regular expression; its first group is the word"
    )
    names: dict[str, str] = Field(
        default_factory=dict, description="what stands in the file: what it is called here"
    )

    _pattern = field_validator("pattern")(require_regex)

    @model_validator(mode="after")
    def _one(self) -> Self:
        _require_one(self, "card", "group", "key", "value")
        return self


class NumberSource(Part):
    """Where a number stands, and in which unit."""

    card: Names | None = Field(default=None, description="header card")
    column: str | None = Field(default=None, description="column of the catalogue")
    key: str | None = Field(default=None, description="array of a stack")
    value: float | None = Field(default=None, description="the number itself")
    unit: str = Field(description="unit of the number, as astropy spells it")
    source: str | None = Field(default=None, description="where a `value` comes from")

    @model_validator(mode="after")
    def _one(self) -> Self:
        _require_one(self, "card", "column", "key", "value")
        return self


class Section(Part):
    """A part of a CCD with an amplifier of its own; what is left out is as for the whole CCD."""

    region: TextSource = Field(
        description="pixels as FITS has them, such as [1:1024,1:4096]: columns, then rows, from 1"
    )
    gain: NumberSource | None = Field(default=None, description="of its pixels")
    read_noise: NumberSource | None = Field(default=None, description="of its pixels")
    saturation: NumberSource | None = Field(
        default=None, description="of its pixels as they stand in the file, the bias included"
    )
    bias: NumberSource | None = Field(default=None, description="level to subtract; none if unset")
