"""Numbers of a survey file: each states its value, its unit and, if wanted, its source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import GetCoreSchemaHandler, SerializationInfo, ValidatorFunctionWrapHandler
from pydantic_core import core_schema

_KEYS = {"value", "unit"}
_SOURCE = "source"

WITH_SOURCES = {"sources": True}
"""Context under which ``model_dump`` writes quantities as ``{value, unit, source}``."""


class Quantity(float):
    """A number that remembers the unit it is in and where it comes from ("" if unsaid).

    Arithmetic on it gives a plain float.
    """

    unit: str
    source: str

    def __new__(cls, value: float, unit: str, source: str) -> Self:
        """`value`, given in `unit`."""
        self = super().__new__(cls, value)
        self.unit, self.source = unit, source
        return self

    def __getnewargs__(self) -> tuple[float, str, str]:  # type: ignore[override]
        return float(self), self.unit, self.source


def _convert(raw: Any, unit: str) -> float:
    if not isinstance(raw, dict) or set(raw) - {_SOURCE} != _KEYS:
        form = f"{{value: NUMBER, unit: {unit or repr('')}}}"
        msg = f"expected {form} and, if wanted, a source, got {raw!r}"
        raise ValueError(msg)
    if isinstance(raw["value"], bool) or not isinstance(raw["value"], (int, float)):
        msg = f"value {raw['value']!r} is not a number"
        raise ValueError(msg)  # noqa: TRY004  pydantic gathers ValueErrors alone
    from astropy import units as u

    try:
        return float((raw["value"] * u.Unit(raw["unit"])).to_value(unit))
    except (TypeError, ValueError) as error:  # unknown unit, or one that does not convert
        msg = f"unit {raw['unit']!r} is unknown or does not convert to {unit!r}: {error}"
        raise ValueError(msg) from error


def _serialise(value: float, info: SerializationInfo) -> Any:
    if isinstance(value, Quantity) and info.context == WITH_SOURCES:
        return {"value": float(value), "unit": value.unit, "source": value.source}
    return float(value)


@dataclass(frozen=True)
class _InUnit:
    unit: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            self._read,
            handler(source),
            serialization=core_schema.plain_serializer_function_ser_schema(
                _serialise, info_arg=True
            ),
        )

    def _read(self, raw: Any, number: ValidatorFunctionWrapHandler) -> Quantity:
        if isinstance(raw, Quantity):
            return raw
        value = number(_convert(raw, self.unit))
        return Quantity(value, self.unit, str(raw.get(_SOURCE) or ""))


def quantity(unit: str) -> Any:
    """Field type that turns ``{value, unit, source}`` into a number in `unit`.

    Used as ``Annotated[float, quantity("arcsec")]``. The number is a `Quantity`; it is
    dumped as a plain number, or with unit and source under the context `WITH_SOURCES`.
    """
    return _InUnit(unit)


Metre = Annotated[float, quantity("m")]
Millimetre = Annotated[float, quantity("mm")]
Micron = Annotated[float, quantity("um")]
Degree = Annotated[float, quantity("deg")]
Arcsec = Annotated[float, quantity("arcsec")]
ArcsecPerPixel = Annotated[float, quantity("arcsec")]
Pixels = Annotated[float, quantity("pixel")]
Second = Annotated[float, quantity("s")]
Day = Annotated[float, quantity("d")]
Electron = Annotated[float, quantity("electron")]
ElectronPerAdu = Annotated[float, quantity("electron / adu")]
PerAreaAndTime = Annotated[float, quantity("1 / (cm2 s)")]
Kelvin = Annotated[float, quantity("K")]
Pure = Annotated[float, quantity("")]
