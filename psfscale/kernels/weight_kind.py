"""What numbers that come as weights seem to be: inverse variances, variances or rms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

KINDS = ("inverse_variance", "variance", "rms")
CONTRADICTED = 4.0
"""Factor between the variance of the sky and that of the weights from which these are in doubt.
Noise that resampling correlated, and crowded fields, stay within it."""
EXPLAINED = 1.5
"""Factor within which another meaning must describe the sky to be named."""
_SIGMA_PER_MAD = 1.4826


@dataclass(frozen=True, kw_only=True)
class OtherKind:
    """Weights that contradict the scatter of the sky as stated, and fit it as something else.

    Attributes
    ----------
    kind : what they seem to be
    scatter : rms of the sky, in the unit of the image
    stated : rms of the sky as the weights have it by what is stated
    """

    kind: str
    scatter: float
    stated: float


def other_kind(
    sky: Float[np.ndarray, "cell pixel"], plane: Float[np.ndarray, "cell pixel"], *, stated: str
) -> OtherKind | None:
    """Compare weights with the scatter of the sky; None where they agree or nothing explains them.

    The scatter of a cell is its median absolute deviation, so that objects in fewer than about a
    third of its pixels, and a level left in it, do not matter; the median over cells is compared.

    Parameters
    ----------
    sky : pixels of small areas, NaN where they are not to be used
    plane : the numbers that come as weights, in the unit of `sky`
    stated : what they are said to be, one of `KINDS`
    """
    usable = np.isfinite(sky) & np.isfinite(plane) & (plane > 0)
    rows = np.count_nonzero(usable, axis=1) > sky.shape[1] // 2
    if not rows.any():
        return None
    values = np.where(usable, sky, np.nan)[rows].astype(np.float64)
    level = np.nanmedian(values, axis=1, keepdims=True)
    scatter = _SIGMA_PER_MAD * np.nanmedian(np.abs(values - level), axis=1)
    numbers = np.nanmedian(np.where(usable, plane, np.nan)[rows].astype(np.float64), axis=1)
    ratio = {kind: _median(scatter**2 / _variance(numbers, kind)) for kind in KINDS}
    if not _beyond(ratio[stated], CONTRADICTED):
        return None
    others = [kind for kind in KINDS if not _beyond(ratio[kind], EXPLAINED)]
    if not others:
        return None
    return OtherKind(
        kind=min(others, key=lambda kind: abs(np.log(ratio[kind]))),
        scatter=_median(scatter),
        stated=_median(np.sqrt(_variance(numbers, stated))),
    )


def _variance(numbers: np.ndarray, kind: str) -> np.ndarray:
    return {"inverse_variance": 1 / numbers, "variance": numbers, "rms": numbers**2}[kind]


def _beyond(ratio: float, factor: float) -> bool:
    return not 1 / factor <= ratio <= factor


def _median(values: np.ndarray) -> float:
    return float(np.median(values))
