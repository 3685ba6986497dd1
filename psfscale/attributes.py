"""Attributes of arrays and stores, in types that every format and program reads.

**Codes** are described as the CF conventions have it: an array of bits has ``flag_masks`` and
``flag_meanings``, an array of numbers that stand for names ``flag_values`` and
``flag_meanings``; meanings are names separated by blanks. **Other attributes** are text, numbers
and lists of numbers; what has more structure is stored as JSON text.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

MASKS, VALUES, MEANINGS = "flag_masks", "flag_values", "flag_meanings"
AS_JSON = "json_attributes"
"""Attribute that names, separated by blanks, the attributes whose text is JSON."""


def flag_attributes(bits: Mapping[str, int]) -> dict[str, Any]:
    """Return the attributes of an array of these bits, by name."""
    return {MASKS: [int(bit) for bit in bits.values()], MEANINGS: " ".join(bits)}


def enumeration_attributes(codes: Mapping[str, int]) -> dict[str, Any]:
    """Return the attributes of an array of these numbers, by name."""
    return {VALUES: [int(code) for code in codes.values()], MEANINGS: " ".join(codes)}


def codes_of(attributes: Mapping[Any, Any]) -> dict[str, int]:
    """Return bits or numbers by name, from an array's attributes; none where it has no codes."""
    numbers = attributes.get(MASKS, attributes.get(VALUES, ()))
    names = str(attributes.get(MEANINGS, "")).split()
    return {name: int(number) for name, number in zip(names, numbers, strict=True)}


def to_stored(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as they are stored: what has no plain type becomes JSON text."""
    structured = [name for name, value in attributes.items() if not _is_plain(value)]
    stored = {
        name: json.dumps(value) if name in structured else value
        for name, value in attributes.items()
    }
    return stored | ({AS_JSON: " ".join(structured)} if structured else {})


def from_stored(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """Return what `to_stored` was given."""
    structured = str(attributes.get(AS_JSON, "")).split()
    return {
        str(name): json.loads(value) if name in structured else value
        for name, value in attributes.items()
        if name != AS_JSON
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_number(item) for item in value)
    return isinstance(value, str) or _is_number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
