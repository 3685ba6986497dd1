"""Units as files spell them, turned into those of the store."""

from __future__ import annotations

import re

import numpy as np
from astropy import units as u
from astropy.coordinates import Angle
from astropy.time import Time

from psfscale.errors import InputError

_SPELLINGS = (
    (r"\belectrons\b|\be-|\be\b", "electron"),
    (r"\bcounts?\b|\bct\b|\bdn\b|\badus\b", "adu"),
    (r"\b(secs?|seconds?)\b", "s"),
)
Level = float | np.ndarray
"""One number for all pixels, or an array that has one for each."""
_IMAGE_UNITS = "adu (count, DN), electron, and either per second"


def parse_unit(text: str) -> u.UnitBase:
    """The unit that `text` names; FITS habits such as ``ELECTRONS/S`` are understood.

    Counts are ADU, as SExtractor has them.

    Raises
    ------
    InputError
        No such unit is known.
    """
    try:
        return u.Unit(text)
    except (ValueError, TypeError):
        spelled = text.strip().lower()
    for pattern, unit in _SPELLINGS:
        spelled = re.sub(pattern, unit, spelled)
    try:
        return u.Unit(spelled)
    except (ValueError, TypeError) as error:
        msg = f"unit {text!r} is unknown; spell it as astropy does, such as electron/s"
        raise InputError(msg) from error


def conversion(unit: str, target: str) -> float:
    """Factor from `unit` to `target`.

    Raises
    ------
    InputError
        The unit is unknown or of another kind.
    """
    try:
        return float(parse_unit(unit).to(target))
    except u.UnitConversionError as error:
        msg = f"unit {unit!r} does not convert to {target!r}"
        raise InputError(msg) from error


def electrons_per(unit: str, *, gain: Level, exposure_time: float | None) -> Level:
    """Electrons in one `unit` of an image or a flux.

    Parameters
    ----------
    unit : ADU, count, electron, or one of them per second
    gain : [electron/adu], one or of each pixel
    exposure_time : [s], needed for rates

    Raises
    ------
    InputError
        The unit is unknown or not of an image, or a rate comes without exposure time.
    """
    parsed = parse_unit(unit)
    for base, electrons in ((u.electron, 1.0), (u.adu, gain), (u.ct, gain), (u.DN, gain)):
        ratio = (parsed / base).decompose()
        if ratio.is_equivalent(u.one):
            return float(ratio.to(u.one)) * electrons
        if ratio.is_equivalent(1 / u.s):
            if exposure_time is None:
                msg = f"unit {unit!r} is a rate: the recipe must state exposure_time"
                raise InputError(msg)
            return float(ratio.to(1 / u.s)) * electrons * exposure_time
    msg = f"unit {unit!r} is not one of an image: expected {_IMAGE_UNITS}"
    raise InputError(msg)


def to_number(value: object, unit: str, target: str) -> float:
    """`value` in `target`: a number in `unit`, a sexagesimal angle or an ISO date.

    Raises
    ------
    InputError
        It is none of these, or the unit is unknown or of another kind.
    """
    if isinstance(value, str):
        try:
            if target == "d":
                return float(Time(value).mjd)
            return float(Angle(value, unit).to_value(target))
        except (ValueError, TypeError) as error:
            msg = f"{value!r} is no number in {unit}: {error}"
            raise InputError(msg) from error
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        msg = f"{value!r} is no number in {unit}"
        raise InputError(msg)
    return float(value) * conversion(unit, target)
