"""Checks of stamps and of the stars of a fit, each against a limit of the run file."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import theilslopes

from psfscale.quality.phases import carried_upsampling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Bool, Float

    from psfscale.config import Quality
    from psfscale.quality.stamps import StampMeasures

    PerStar = Float[np.ndarray, " star"]

_MAD = 1.4826
_MANY = 300
"""Stars of a regression; of more, so many evenly spaced ones."""
_FEWEST = 4
"""Stars below which a median says nothing."""
_SURE = 3.0
"""Standard errors by which an offset of a median stands out."""
_RANGE = 3.0
"""Ratio of bright to faint stars below which the noise in their light bends a line."""
_FEWEST_PHASES = 12
"""Stars below which phases may look exchanged by chance."""
_LOST_PHASE = 0.125
"""Median distance from the stated phase [pixel] beyond which it says little; unrelated: 0.25."""
_CLOSER = 0.5
"""Distance from the exchanged phase, over the stated one, below which it is the true one."""
_SHARE_OF_PEAK = 0.1
"""Border over peak from which light at the border is not a star's wings, where stars of one flux
leave no other way to tell."""


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """A quality check that tripped.

    Attributes
    ----------
    check : its name in the ``quality`` section of a run file
    message : the value found, the limit, and a likely cause
    """

    check: str
    message: str

    def __str__(self) -> str:
        return self.message


def fit_doubts(
    stamps: StampMeasures,
    *,
    used: Bool[np.ndarray, " star"],
    chi2: PerStar,
    limits: Quality,
    upsampling: int = 1,
) -> tuple[Doubt, ...]:
    """Return the doubts that a fit and its stars give rise to.

    Parameters
    ----------
    stamps : of the stars given to the fit
    used : False for stars that were clipped
    chi2 : reduced χ² of each star
    limits : of the run, or the defaults
    upsampling : that the stars' sub-pixel phases have to carry, 1 where the model has optics
    """
    carried = carried_upsampling(
        stamps.offset_y, stamps.offset_x, stamps.significance, wanted=upsampling
    )
    found = (*stamp_doubts(stamps, limits), phase_doubt(carried, upsampling, limits))
    return (*(doubt for doubt in found if doubt), *star_doubts(used, chi2, limits))


def stamp_doubts(stamps: StampMeasures, limits: Quality) -> list[Doubt]:
    """Return the doubts that stamps alone give rise to."""
    found = (_starless(stamps, limits), _sky(stamps, limits), _weights(stamps, limits))
    return [doubt for doubt in found if doubt is not None]


def _starless(stamps: StampMeasures, limits: Quality) -> Doubt | None:
    significance = stamps.significance[~np.isnan(stamps.significance)]
    if limits.starless_fraction is None or significance.size < _FEWEST:
        return None
    share = float((significance < limits.starless_snr).mean())
    if share <= limits.starless_fraction:
        return None
    return Doubt(
        check="starless_fraction",
        message=f"{share:.0%} of the stamps have no star in their centre (signal to noise below "
        f"{limits.starless_snr:g}; limit {limits.starless_fraction:.0%}): are x and y swapped, or "
        "of another image?",
    )


def _sky(stamps: StampMeasures, limits: Quality) -> Doubt | None:
    noise = stamps.noise[np.isfinite(stamps.noise)]
    if limits.sky is None or noise.size < _FEWEST:
        return None
    typical = float(np.median(noise))
    level, error = sky_level(stamps)
    wide = limits.sky * typical
    certain = abs(level) - _SURE * error > wide
    if not certain and error > wide:  # one flux: wings and sky are not to be told apart by it
        level = float(np.nanmedian(stamps.border))
        peak = np.nanmedian(stamps.peak)
        certain = abs(level) > max(_SURE * typical, _SHARE_OF_PEAK * peak, wide)
    if not certain:
        return None
    times = f"{level / typical:.1f} times its noise" if typical > 0 else "a level without noise"
    return Doubt(
        check="sky",
        message=f"the border of the stamps lies off zero by {times}, whatever the star's flux "
        f"(limit {limits.sky:g}): is the sky subtracted?",
    )


def sky_level(stamps: StampMeasures) -> tuple[float, float]:
    """Return the border's level at zero flux and its standard error [electron].

    A star's wings grow with its light, a sky that was left in does not: the level is the intercept
    of a Theil-Sen line, so that neighbours of up to a quarter of the stars do not move it.
    """
    known = np.isfinite(stamps.border) & np.isfinite(stamps.light)
    chosen = np.flatnonzero(known)
    if chosen.size > _MANY:
        chosen = chosen[np.linspace(0, chosen.size - 1, _MANY).astype(int)]
    light, border = stamps.light[chosen], stamps.border[chosen]
    faint, bright = np.quantile(light, (0.1, 0.9))
    if not 0 < _RANGE * faint < bright and not faint <= 0 < bright:
        return float(np.median(border)), float("inf")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of borders that are all alike
        line: Any = theilslopes(border, light)
    rest = border - line.intercept - line.slope * light
    scatter = 1.2533 * _MAD * np.median(np.abs(rest)) / np.sqrt(chosen.size)
    lever = max(line.high_slope - line.slope, line.slope - line.low_slope) / 1.96
    error = float(np.hypot(scatter, lever * abs(np.median(light))))
    return float(line.intercept), error if np.isfinite(error) else float("inf")


def _weights(stamps: StampMeasures, limits: Quality) -> Doubt | None:
    ratio = stamps.variance_ratio[np.isfinite(stamps.variance_ratio)]
    limit = limits.weight_factor
    if limit is None or ratio.size < _FEWEST:
        return None
    middle = float(np.median(ratio))
    if 1 / limit <= middle <= limit:
        return None
    return Doubt(
        check="weight_factor",
        message=f"the variance of the stamps' borders is {middle:.3g} times what the weights "
        f"promise (limit {limit:g} either way): are the weights inverse variances [1/electron²], "
        "not variances or rms?",
    )


def star_doubts(used: Bool[np.ndarray, " star"], chi2: PerStar, limits: Quality) -> Iterator[Doubt]:
    """Yield the doubts that the stars of a fit give rise to.

    Parameters
    ----------
    used : False for stars that were clipped
    chi2 : reduced χ² of each star
    """
    share = float(1 - used.mean()) if used.size else 0.0
    if limits.clipped_fraction is not None and share > limits.clipped_fraction:
        yield Doubt(
            check="clipped_fraction",
            message=f"{share:.0%} of {used.size} stars were clipped from the fit (limit "
            f"{limits.clipped_fraction:.0%}): are they stars?",
        )
    known = chi2[used & np.isfinite(chi2)]
    if known.size:
        yield from _chi2_doubts(float(np.median(known)), limits)


def _chi2_doubts(chi2: float, limits: Quality) -> Iterator[Doubt]:
    if limits.chi2_maximum is not None and chi2 > limits.chi2_maximum:
        yield Doubt(
            check="chi2_maximum",
            message=f"the fitted stars have a median reduced chi² of {chi2:.3g} (limit "
            f"{limits.chi2_maximum:g}): are they stars, and is the noise that of the weights?",
        )
    if limits.chi2_minimum is not None and chi2 < limits.chi2_minimum:
        yield Doubt(
            check="chi2_minimum",
            message=f"the fitted stars have a median reduced chi² of {chi2:.3g}, too good to be "
            f"true (limit {limits.chi2_minimum:g}): are the stamps constant, or the weights too "
            "low?",
        )


def position_doubt(stamps: StampMeasures, x: PerStar, y: PerStar, limits: Quality) -> Doubt | None:
    """Return the doubt about positions whose stars lie off them by the same amount.

    Parameters
    ----------
    x, y : positions by which the stamps were cut: the nearest pixel is the stamp's centre
    """
    limit = limits.position_offset
    if limit is None or len(x) < _FEWEST:
        return None
    offsets = np.stack([stamps.offset_x, stamps.offset_y])
    phases = np.stack([position - np.floor(position + 0.5) for position in (x, y)])
    if _swapped(offsets, phases):
        return Doubt(
            check="position_offset",
            message=f"within their pixels, {len(x)} stars lie where x and y would be if exchanged: "
            "are x and y swapped in the catalogue or the recipe?",
        )
    rest = offsets - phases
    off = np.nanmedian(rest, axis=1)
    scatter = _MAD * np.nanmedian(np.abs(rest - off[:, None]), axis=1) / np.sqrt(len(x))
    if not (np.abs(off) - _SURE * scatter > limit).any():
        return None
    return Doubt(
        check="position_offset",
        message=f"the stars lie off their positions by {off[0]:+.2f} pixel in x and {off[1]:+.2f} "
        f"in y (limit {limit:g}): is the origin of the catalogue 1 or 0, are x and y swapped, and "
        "does its WCS fit?",
    )


def _swapped(offsets: Float[np.ndarray, "2 star"], phases: Float[np.ndarray, "2 star"]) -> bool:
    """Whether stars lie where x and y exchanged say, within their pixels, and not where x, y say.

    Stamps that come with their catalogue hold their stars whatever the columns say, so the phases
    alone can tell.
    """
    known = np.isfinite(offsets + phases).all(axis=0)
    if known.sum() < _FEWEST_PHASES:
        return False
    stated, exchanged = (
        np.median(np.abs(_wrapped(offsets - each)[:, known]), axis=1)
        for each in (phases, phases[::-1])
    )
    return bool(np.all(stated > _LOST_PHASE) and np.all(exchanged < _CLOSER * stated))


def _wrapped(offset: np.ndarray) -> np.ndarray:
    """An offset [pixel] from the nearest whole pixel."""
    return offset - np.floor(offset + 0.5)


def outside_doubt(n_outside: int, n_taken: int, limits: Quality) -> Doubt | None:
    """Return the doubt about objects of a catalogue that lie outside the CCD."""
    limit, total = limits.outside_fraction, n_outside + n_taken
    if limit is None or not total or n_outside / total <= limit:
        return None
    return Doubt(
        check="outside_fraction",
        message=f"{n_outside} of {total} objects of the catalogue lie outside the CCD (limit "
        f"{limit:.0%}): are x and y swapped, or is it the catalogue of another CCD?",
    )


def phase_doubt(carried: int, wanted: int, limits: Quality) -> Doubt | None:
    """Return the doubt about stars whose sub-pixel phases do not carry the upsampling."""
    if not limits.phases or carried >= wanted:
        return None
    held = "the CCD's own sampling" if carried == 1 else f"upsampling {carried}"
    return Doubt(
        check="phases",
        message=f"the stars lie at too few sub-pixel phases for upsampling {wanted}; the fit is "
        f"held to {held}: between its pixels the PSF is not determined by these stars",
    )
