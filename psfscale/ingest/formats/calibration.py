"""Gain, saturation, bias and read noise of a CCD: one of each, or one for each section."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from psfscale.errors import InputError
from psfscale.ingest.formats.facts import FileDefectError
from psfscale.ingest.formats.units import Level, electrons_per
from psfscale.ingest.objects import nearest_pixel
from psfscale.survey.sources import Section, TextSource

if TYPE_CHECKING:
    from psfscale.ingest.formats.facts import Facts
    from psfscale.survey import Survey
    from psfscale.survey.recipe import NumberSource

_REGION = re.compile(r"\[?\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]?")
_WHOLE = Section(region=TextSource(value="[1:1,1:1]"))
_PLANES = ("electrons", "gain", "bias", "read_noise", "saturation", "section")


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """How the words and numbers of one CCD become ours.

    Each level is one number or, where the CCD has sections, a plane (y, x); NaN off all sections.

    Attributes
    ----------
    electrons : in one unit of the image
    gain : [electron/adu]
    bias : [electron], to be subtracted
    read_noise : [electron]
    saturation : [electron] above the bias, or None
    section : number of the section of each pixel, -1 off all of them; None where there are none
    exposure_time : [s], or None
    source_noise : whether the object's own Poisson noise is added to the variance
    templates : names of the survey's spectra, numbered from 1
    """

    electrons: Level
    gain: Level
    bias: Level
    read_noise: Level
    saturation: Level | None
    section: np.ndarray | None
    exposure_time: float | None
    source_noise: bool
    templates: tuple[str, ...] = ()

    def of_unit(self, unit: str) -> Level:
        """Electrons in one `unit`."""
        return electrons_per(unit, gain=self.gain, exposure_time=self.exposure_time)

    def level(self, source: NumberSource, facts: Facts, what: str) -> Level:
        """A pixel level in electrons."""
        return facts.number(source, source.unit, what) * self.of_unit(source.unit)

    def at(self, x: np.ndarray, y: np.ndarray) -> Self:
        """Return the calibration of the pixels nearest to positions, levels as (object,)."""
        return self._taken(nearest_pixel(y), nearest_pixel(x))

    def around(self, x: np.ndarray, y: np.ndarray, shape: tuple[int, int]) -> Self:
        """Return the calibration of stamps around positions, levels as (object, y, x).

        What reaches over the edge of the CCD has the levels of the edge.

        Parameters
        ----------
        x, y : (object,) [pixel], 0-based
        shape : (y, x) pixels of a stamp
        """
        rows = nearest_pixel(y)[:, None, None] + np.arange(shape[0])[:, None] - shape[0] // 2
        columns = nearest_pixel(x)[:, None, None] + np.arange(shape[1]) - shape[1] // 2
        return self._taken(rows, columns)

    def _taken(self, rows: np.ndarray, columns: np.ndarray) -> Self:
        if self.section is None:
            return self
        height, width = self.section.shape
        pixel = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
        levels = {name: getattr(self, name) for name in _PLANES}
        return replace(
            self, **{name: v[pixel] for name, v in levels.items() if np.ndim(v) == len(("y", "x"))}
        )


def calibration(survey: Survey, facts: Facts, *, unit: str | None) -> Calibration:
    """Calibration of a CCD, from its facts, the recipe and the instrument.

    Parameters
    ----------
    survey : with recipe and instrument
    facts : of the CCD
    unit : of the pixels as the file tells it; the recipe's comes first

    Raises
    ------
    InputError
        Neither states a unit, or it is not one of an image; sections overlap or leave the CCD.
    """
    stated = survey.ingest.unit or unit
    if not stated:
        msg = f"{facts.path}: the unit of the pixels is not stated; give `unit` in the recipe"
        raise InputError(msg)
    sections = survey.ingest.sections
    if not sections:
        return _of_section(survey, facts, stated, _WHOLE)
    detector = survey.instrument.detector
    section = np.full((detector.rows, detector.columns), -1, np.int8)
    for number, item in enumerate(sections):
        part = _region(facts, item.region, section.shape)
        if (section[part] >= 0).any():
            msg = f"{facts.path}: section {number + 1} of the recipe overlaps another one"
            raise FileDefectError(msg)
        section[part] = number
    return _joined([_of_section(survey, facts, stated, item) for item in sections], section)


def _of_section(survey: Survey, facts: Facts, unit: str, section: Section) -> Calibration:
    recipe, detector = survey.ingest, survey.instrument.detector

    def number(source: NumberSource | None, default: float, unit: str, what: str) -> float:
        return default if source is None else facts.number(source, unit, what)

    time = None
    if recipe.exposure_time is not None:
        time = facts.number(recipe.exposure_time, "s", "exposure time")
    gain_source = section.gain or recipe.gain
    gain = number(gain_source, float(detector.gain), "electron / adu", "gain")
    if not 0 < gain < np.inf:
        msg = f"{facts.path}: the gain is {gain} electron/adu, expected a positive number"
        raise FileDefectError(msg)

    def level(source: NumberSource, what: str) -> float:
        value = facts.number(source, source.unit, what)
        return float(value * electrons_per(source.unit, gain=gain, exposure_time=time))

    bias = 0.0 if section.bias is None else level(section.bias, "bias")
    full = section.saturation or recipe.saturation
    saturation = None if detector.saturation is None else float(detector.saturation)
    if full is not None:  # of the pixels in the file; the instrument's full well has no bias
        saturation = level(full, "saturation") - bias
    noise = None
    if getattr(recipe, "weight", None) is None:  # beside weights it is not needed, nor looked for
        noise = section.read_noise or getattr(recipe, "read_noise", None)
    return Calibration(
        electrons=electrons_per(unit, gain=gain, exposure_time=time),
        gain=gain,
        bias=bias,
        read_noise=number(noise, float(detector.read_noise), "electron", "read noise"),
        saturation=saturation,
        section=None,
        exposure_time=time,
        source_noise=recipe.source_noise,
        templates=() if survey.spectra is None else survey.spectra.names,
    )


def _joined(parts: list[Calibration], section: np.ndarray) -> Calibration:
    """The calibrations of sections as planes (y, x)."""
    planes: dict[str, Any] = {"section": section}
    for name in _PLANES[:-1]:
        values = [getattr(part, name) for part in parts]
        planes[name] = None
        if any(value is not None for value in values):
            table = [np.inf if value is None else value for value in values]
            planes[name] = np.array([*table, np.nan], np.float32)[section]
    return replace(parts[0], **planes)


def _region(facts: Facts, source: TextSource, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of a region such as [1:1024,1:4096]; either end may come first."""
    text = facts.text(source, "region of a section")
    match = _REGION.fullmatch(text)
    if match is None:
        msg = f"{facts.path}: section {text!r} is not of the form [x1:x2,y1:y2]"
        raise FileDefectError(msg)
    x1, x2, y1, y2 = (int(end) for end in match.groups())
    (y1, y2), (x1, x2) = sorted((y1, y2)), sorted((x1, x2))
    if min(x1, y1) < 1 or y2 > shape[0] or x2 > shape[1]:
        msg = (
            f"{facts.path}: section {text!r} reaches over the CCD of {shape[1]} columns and "
            f"{shape[0]} rows"
        )
        raise FileDefectError(msg)
    return slice(y1 - 1, y2), slice(x1 - 1, x2)
