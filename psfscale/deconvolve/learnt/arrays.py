"""Results of the learnt restoration in NumPy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from psfscale.deconvolve.stack import Restoration

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from psfscale.deconvolve.learnt.prior import Prior

__all__ = ["LearntArrays", "Profiles"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Profiles:
    """Fitted profiles.

    Attributes
    ----------
    flux, flux_error : (object,) flux of the profile, on the stamp and beyond [as the images]
    size : (object,) scale of the profile, exp l [pixel]
    ellipticity, ellipticity_error : (object, 2) distortion, (Mxx − Myy, 2 Mxy) / (Mxx + Myy)
    converged : (object,) whether the fit reached its tolerance
    chi2 : (object,) squared residual over the noise, of all that was fitted
    excess : (object,) of chi2 over its mean without a misfit, in its own scatter [σ]
    prior : the population
    """

    flux: Float[np.ndarray, " object"]
    flux_error: Float[np.ndarray, " object"]
    size: Float[np.ndarray, " object"]
    ellipticity: Float[np.ndarray, "object 2"]
    ellipticity_error: Float[np.ndarray, "object 2"]
    converged: Bool[np.ndarray, " object"]
    chi2: Float[np.ndarray, " object"]
    excess: Float[np.ndarray, " object"]
    prior: Prior


@dataclass(frozen=True, kw_only=True, eq=False)
class LearntArrays(Restoration[np.ndarray]):
    """Restored galaxies, the profiles fitted to them and their clumpiness.

    Attributes
    ----------
    profile : fitted profiles
    clumpiness : (object,) τ², flux variance of clumps over the flux squared; 0 = none seen
    """

    profile: Profiles
    clumpiness: Float[np.ndarray, " object"]
