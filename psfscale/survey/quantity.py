"""Numbers of a survey file: each states its value, its unit and where it comes from."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

_KEYS = {"value", "unit", "source"}


def _convert(raw: Any, unit: str) -> Any:
    if not isinstance(raw, dict) or set(raw) != _KEYS:
        msg = f"expected a mapping with keys value, unit [{unit}] and source, got {raw!r}"
        raise ValueError(msg)
    if not str(raw["source"]).strip():
        msg = f"the source of {raw['value']!r} {raw['unit']} is empty: say where it comes from"
        raise ValueError(msg)
    from astropy import units as u

    try:
        return (raw["value"] * u.Unit(raw["unit"])).to_value(unit)
    except TypeError as error:
        msg = f"value {raw['value']!r} is not a number"
        raise ValueError(msg) from error
    except ValueError as error:  # astropy: unknown unit, or one that does not convert
        msg = f"unit {raw['unit']!r} is unknown or does not convert to {unit!r}: {error}"
        raise ValueError(msg) from error


def quantity(unit: str) -> BeforeValidator:
    """Validator that turns ``{value, unit, source}`` into a number in `unit`.

    Used as ``Annotated[float, quantity("arcsec")]`` (or a tuple of floats).
    """

    def convert(raw: Any) -> Any:
        if isinstance(raw, dict) and isinstance(raw.get("value"), (list, tuple)):
            return tuple(_convert({**raw, "value": v}, unit) for v in raw["value"])
        return _convert(raw, unit)

    return BeforeValidator(convert)


Metre = Annotated[float, quantity("m")]
Millimetre = Annotated[float, quantity("mm")]
Micron = Annotated[float, quantity("um")]
Degree = Annotated[float, quantity("deg")]
ArcsecPerPixel = Annotated[float, quantity("arcsec")]
Electron = Annotated[float, quantity("electron")]
ElectronPerAdu = Annotated[float, quantity("electron / adu")]
Pure = Annotated[float, quantity("")]
