"""Sizes of objects under circular Gaussian windows, with their errors, from their stamps.

Under one window of about the stars' size, a size is linear in the light, its error is known, and
its excess over the stars' is the best statistic there is for a slightly resolved source where the
PSF is a Gaussian.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Self

import numpy as np
from jaxtyping import Bool, Float

from psfscale.arrays import centre_index

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psfscale.ingest.objects import Objects

__all__ = ["WINDOWS", "Measurement", "Sizes", "measure"]

WINDOWS = (0.8, 1.1, 1.5, 2.1, 2.9, 4.0)
"""Sigmas of the windows [pixel]. Below 0.8 pixels a window sees little but one pixel."""
_REACH = 15
"""Pixels on each side of the centre that are looked at."""
_ITERATIONS = 12
_LARGEST = 6.0
"""Largest sigma of an adaptive window [pixel]."""
_LOST = 0.02
"""Share of the window's weight without a pixel, above which there is no size."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of the objects of one CCD; NaN where they cannot be measured.

    Attributes
    ----------
    log_size : logarithm of the windowed variance along an axis [pixel²]
    error : standard error of `log_size`: noise of the sky and the object's own photons
    flux : under the window [electron]
    snr : of `flux`
    peak : brightest pixel of the core, above the sky [electron], masked or not
    phase_x, phase_y : centroid from the centre of its pixel [pixel]
    skew : third moments about the centroid, those of light that is not even about it, in units
        of the size: x and y of spin 1 and of spin 3
    skew_error : standard error of each: noise of the sky and the object's own photons
    """

    log_size: Float[np.ndarray, " object"]
    error: Float[np.ndarray, " object"]
    flux: Float[np.ndarray, " object"]
    snr: Float[np.ndarray, " object"]
    peak: Float[np.ndarray, " object"]
    phase_x: Float[np.ndarray, " object"]
    phase_y: Float[np.ndarray, " object"]
    skew: Float[np.ndarray, "object 4"]
    skew_error: Float[np.ndarray, "object 4"]

    def __len__(self) -> int:
        return len(self.snr)

    @property
    def measured(self) -> Bool[np.ndarray, " object"]:
        """True where there is a size."""
        return np.asarray(np.isfinite(self.log_size + self.error))

    @classmethod
    def together(cls, parts: Sequence[Sizes]) -> Self:
        """Return the sizes of several CCDs, one after the other."""
        names = (f.name for f in fields(cls))
        return cls(**{n: np.concatenate([getattr(one, n) for one in parts]) for n in names})

    def take(self, rows: np.ndarray) -> Sizes:
        """Return those of some objects."""
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})


@dataclass(frozen=True, kw_only=True)
class _Stamps:
    """Central pixels of stamps, masked ones replaced by those opposite; `lost` have neither."""

    image: Float[np.ndarray, "object y x"]
    variance: Float[np.ndarray, "object y x"]
    lost: Bool[np.ndarray, "object y x"]
    y: Float[np.ndarray, " y 1"]
    x: Float[np.ndarray, " x"]


@dataclass(frozen=True, kw_only=True)
class _Window:
    """Gaussian weights on stamps, and what lies under them."""

    weight: Float[np.ndarray, "object y x"]
    radius2: Float[np.ndarray, "object y x"]
    flux: Float[np.ndarray, " object"]

    def mean(self, image: np.ndarray, values: np.ndarray) -> np.ndarray:
        """(object,) mean of `values` under the window, weighted by the light."""
        with np.errstate(invalid="ignore", divide="ignore"):
            weighted = np.einsum("nyx,nyx,nyx->n", self.weight, image, values)
            return np.asarray(weighted / self.flux)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Sizes of the objects of one CCD, each under its own window and all under each of `WINDOWS`.

    Attributes
    ----------
    sigma : of a Gaussian of the object's adaptive size [pixel]; NaN where there is none
    error : standard error of the logarithm of its square, about
    windows : sizes under each window
    """

    sigma: Float[np.ndarray, " object"]
    error: Float[np.ndarray, " object"]
    windows: tuple[Sizes, ...]

    def under(self, sigma: float) -> Sizes:
        """Return the sizes under the window nearest to `sigma` [pixel]."""
        return self.windows[int(np.argmin(np.abs(np.log(np.array(WINDOWS) / sigma))))]


def measure(objects: Objects) -> Measurement:
    """Measure the sizes of objects on their stamps."""
    stamps = _central(objects)
    sigmas = np.full(len(objects), 2.0)
    dx, dy = _phase(objects.x), _phase(objects.y)
    for step in range(_ITERATIONS):
        window = _window(stamps, dx, dy, sigmas)
        dx = _moved(dx, window.mean(stamps.image, stamps.x - dx[:, None, None]), step)
        dy = _moved(dy, window.mean(stamps.image, stamps.y - dy[:, None, None]), step)
        sigmas = _adapted(sigmas, window.mean(stamps.image, window.radius2) / 2)
    peak = _peak(objects)
    own = _measured(stamps, sigmas, dx, dy, peak)
    fixed = (np.full(len(objects), sigma) for sigma in WINDOWS)
    return Measurement(
        sigma=np.where(own.measured, sigmas, np.nan),
        error=2 * own.error,
        windows=tuple(_measured(stamps, sigma, dx, dy, peak) for sigma in fixed),
    )


def _phase(position: np.ndarray) -> np.ndarray:
    finite = np.nan_to_num(position)
    return np.asarray(finite - np.floor(finite + 0.5))


def _central(objects: Objects) -> _Stamps:
    height, width = objects.image.shape[1:]
    cy, cx = centre_index(height), centre_index(width)
    reach = min(_REACH, cy, cx, height - 1 - cy, width - 1 - cx)
    part = np.s_[:, cy - reach : cy + reach + 1, cx - reach : cx + reach + 1]
    image, weight = objects.image[part].astype(np.float64), objects.weight[part].astype(np.float64)
    bad = ~(np.isfinite(image) & np.isfinite(weight) & (weight > 0))
    opposite = np.s_[:, ::-1, ::-1]
    with np.errstate(divide="ignore"):
        variance = np.where(bad, np.nan, 1 / weight)
    # Masked pixels take what lies opposite: a star's light is nearly even about its centre.
    image = np.where(bad, np.where(bad[opposite], 0, np.nan_to_num(image[opposite])), image)
    variance = np.where(bad, variance[opposite], variance)
    lost = bad & bad[opposite]
    image, variance = np.where(lost, 0, image), np.where(lost, 0, variance)
    axis = np.arange(-reach, reach + 1, dtype=np.float64)
    own = np.maximum(image, 0)
    return _Stamps(image=image, variance=variance + own, lost=lost, y=axis[:, None], x=axis)


def _window(stamps: _Stamps, dx: np.ndarray, dy: np.ndarray, sigma: np.ndarray) -> _Window:
    x = stamps.x - dx[:, None, None]
    y = stamps.y[None] - dy[:, None, None]
    radius2 = x**2 + y**2
    weight = np.exp(-radius2 / (2 * sigma[:, None, None] ** 2))
    flux = np.einsum("nyx,nyx->n", weight, stamps.image)
    return _Window(weight=weight, radius2=radius2, flux=np.where(flux > 0, flux, np.nan))


def _moved(centre: np.ndarray, mean: np.ndarray, step: int) -> np.ndarray:
    # Twice the windowed mean: under a window of its own size a Gaussian moves by half.
    moved = centre + np.clip(np.nan_to_num(2 * mean if step else mean), -0.5, 0.5)
    return np.asarray(np.clip(moved, -1.5, 1.5))


def _adapted(sigma: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """The sigma of a Gaussian that has this variance under a window of `sigma`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        inverse = 1 / variance - 1 / sigma**2
        own = np.where(inverse > _LARGEST**-2, inverse, _LARGEST**-2) ** -0.5
    return np.clip(np.where(np.isfinite(own), own, sigma), WINDOWS[0], _LARGEST)


def _measured(
    stamps: _Stamps, sigma: np.ndarray, dx: np.ndarray, dy: np.ndarray, peak: np.ndarray
) -> Sizes:
    """Sizes of all objects, each under a window of `sigma` [pixel] at its centroid."""
    window = _window(stamps, dx, dy, sigma)
    half = window.mean(stamps.image, window.radius2) / 2
    lost = (window.weight * stamps.lost).sum(axis=(1, 2)) / window.weight.sum(axis=(1, 2)) > _LOST
    ok = (half > 0) & ~lost
    half = np.where(ok, half, np.nan)
    lever = window.weight * (window.radius2 / 2 - half[:, None, None])
    error = np.sqrt(np.einsum("nyx,nyx,nyx->n", lever, lever, stamps.variance))
    noise = np.sqrt(np.einsum("nyx,nyx,nyx->n", window.weight, window.weight, stamps.variance))
    skew, skew_error = _skew(stamps, window, half, dx, dy)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Sizes(
            log_size=np.log(half),
            error=error / (window.flux * half),
            flux=window.flux,
            snr=np.nan_to_num(window.flux / noise),
            peak=peak,
            phase_x=dx,
            phase_y=dy,
            skew=skew,
            skew_error=skew_error,
        )


def _skew(
    stamps: _Stamps, window: _Window, half: np.ndarray, dx: np.ndarray, dy: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(object, 4) third moments, z (r² − 4 s²) and z³ over s³ with z = x + iy, and their errors.

    `half` is s². The first is orthogonal to z under a Gaussian, so that an error of the centroid
    does not enter.
    """
    z = (stamps.x - dx[:, None, None]) + 1j * (stamps.y[None] - dy[:, None, None])
    scale = half[:, None, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        levers = (z * (window.radius2 - 4 * scale) / scale**1.5, z**3 / scale**1.5)
        parts = [
            window.weight * part / window.flux[:, None, None]
            for lever in levers
            for part in (lever.real, lever.imag)
        ]
        value = [np.einsum("nyx,nyx->n", part, stamps.image) for part in parts]
        error = [np.sqrt(np.einsum("nyx,nyx,nyx->n", p, p, stamps.variance)) for p in parts]
    return np.stack(value, axis=1), np.stack(error, axis=1)


def _peak(objects: Objects) -> np.ndarray:
    """Brightest of the 5 x 5 central pixels; masked ones count, as saturated ones are masked."""
    height, width = objects.image.shape[1:]
    cy, cx = centre_index(height), centre_index(width)
    core = objects.image[:, max(cy - 2, 0) : cy + 3, max(cx - 2, 0) : cx + 3]
    pixels = np.nan_to_num(core, nan=0.0).reshape(len(objects), -1)
    return np.asarray(pixels.max(axis=1, initial=0.0))
