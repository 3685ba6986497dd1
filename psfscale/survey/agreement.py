"""Comparison of two descriptions of an instrument, and of a passband with names of filters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from psfscale.errors import ConfigError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from psfscale.survey.instrument import Instrument

FREE = ("psf", "rendering", "passband.filters")
"""Parts that may differ from the instrument of the data: limits and settings of a model, and
names of filters, which are compared with those of the exposures."""
_SAME = 1e-9
"""Relative difference of two numbers that are one number in different units."""
_SHOWN = 5


def differences(one: Instrument, other: Instrument) -> list[tuple[str, Any, Any]]:
    """Return the keys at which two instruments differ, with both values.

    What does not describe the data (`FREE`) is not compared.
    """
    left, right = (dict(_leaves(each.model_dump(mode="json"))) for each in (one, other))
    keys = [*left, *(key for key in right if key not in left)]
    return [
        (key, left.get(key), right.get(key))
        for key in keys
        if not _same(left.get(key), right.get(key))
    ]


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        key = f"{path}{name}"
        if key in FREE:
            continue
        if isinstance(value, dict):
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=_SAME)
    return bool(one == other)


def require_same(given: Instrument, stored: Instrument, *, name: str, store: Path) -> None:
    """Pass silently if an instrument is the one that a survey store was ingested with.

    Parameters
    ----------
    given : from the file `name`
    stored : in the survey store

    Raises
    ------
    ConfigError
        They differ in what describes the data; the message names the keys and both values.
    """
    found = differences(given, stored)
    if found:
        told = "; ".join(f"{key} is {a}, in the store {b}" for key, a, b in found[:_SHOWN])
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        msg = (
            f"the instrument of {name} is not the one that {store} was ingested with: "
            f"{told}{more}; leave `instrument` out to take the store's, or ingest the files anew"
        )
        raise ConfigError(msg)


def undescribed(instrument: Instrument, name: str) -> str | None:
    """Return why an exposure in the filter `name` is not described by an instrument, or None.

    An instrument that names no filters describes any one; an exposure without a filter's name is
    taken to be in the instrument's.
    """
    known = () if instrument.passband is None else instrument.passband.filters
    if not known or not name or name in known:
        return None
    return (
        f"filter {name!r} is not described by the instrument, whose passband is that of "
        f"{', '.join(known)}: ingest it with a survey file of its own passband, or add it to "
        "instrument.passband.filters where the passband is the same"
    )


def require_filters(
    instrument: Instrument, names: Sequence[str], ids: Sequence[str], *, one: str | None = None
) -> None:
    """Pass silently if an instrument describes the filters of all exposures.

    Parameters
    ----------
    names : filter of each exposure, empty where it is not known
    ids : of the exposures
    one : name of a model that computes the passband's optics, for which an instrument that names
        no filters describes a single one

    Raises
    ------
    InputError
        It does not; the message names the first exposure and its filter.
    """
    first: dict[str, str] = {}
    for name, identity in zip(names, ids, strict=True):
        first.setdefault(name, identity)
        why = undescribed(instrument, name)
        if why is not None:
            msg = f"exposure {identity}: {why}"
            raise InputError(msg)
    first.pop("", None)
    named = instrument.passband is not None and instrument.passband.filters
    if one is not None and len(first) > 1 and not named:
        told = ", ".join(f"{name!r} (exposure {identity})" for name, identity in first.items())
        msg = (
            f"the survey has exposures in several filters, {told}, and {one} computes the optics "
            "of one passband: ingest each filter into a store of its own, or name those that the "
            "passband describes in instrument.passband.filters"
        )
        raise InputError(msg)
