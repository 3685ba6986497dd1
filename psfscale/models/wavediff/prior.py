r"""How rough surfaces are a priori, learnt from the stars by the marginal likelihood.

The coefficients a of the surfaces are Gaussian with variances v; χ² is quadratic in them,
``aᵀ N a − 2 bᵀ a``. The likelihood of v, all a integrated out, is then in closed form,
``2 log L = bᵀ C b − log|1 + √v N √v|`` with the posterior's covariance ``C = (N + 1/v)⁻¹`` and mean
``C b``, and so is its slope, ``d log L / d log √v = (mean² + diag C) / v − 1``.

======  ======================================================================  ====
symbol  name                                                                    unit
======  ======================================================================  ====
a, v    coefficient of a cosine and a function of position; its prior variance  µm, µm²
N, b    what the stars say, Zernikes and all else solved for                    µm⁻², µm⁻¹
======  ======================================================================  ====
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cho_solve, cholesky, lapack
from scipy.optimize import minimize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

    from psfscale.models.wavediff.joint import Surfaces
    from psfscale.models.wavediff.surface import Wave

__all__ = ["Posterior", "Roughness", "learnt", "posterior"]

SLOPE, SLOPE_SIGMA = 2.5, 1.0
"""Fall of the power spectrum with spatial frequency, as of polished surfaces; how sure that is."""
KNEE = 2.0
"""Frequency [cycles per aperture] below which the spectrum is flat."""
FAINTEST, STRONGEST = 1e-5, 0.1
"""Range of a rms [µm]."""
STEEPEST = 8.0
FIRST_RMS, FALL = 0.005, 0.6
"""Rms [µm] from which it is sought, and of each degree in position against the one before."""
LONGEST_STEP = 1.0
"""Largest first change of the logarithms."""


@dataclass(frozen=True, kw_only=True)
class Roughness:
    """The law of the surfaces' variances.

    Attributes
    ----------
    rms : of the surface of a function of position, by its degree [µm]
    slope : fall of the power spectrum with spatial frequency
    """

    rms: tuple[float, ...]
    slope: float = SLOPE

    @classmethod
    def usual(cls, degree: int) -> Roughness:
        """Where the search begins, for functions up to a degree."""
        return cls(rms=tuple(FIRST_RMS * FALL**k for k in range(degree + 1)))

    def sigma(self, waves: Sequence[Wave], degrees: Sequence[int]) -> Float[np.ndarray, "w f"]:
        """Standard deviations (wave, function) [µm] of the coefficients."""
        power = np.exp(self.slope * _fall(waves))
        rms = np.array(self.rms)[list(degrees)]
        return np.asarray(np.sqrt(power / power.sum())[:, None] * rms)


@dataclass(frozen=True, kw_only=True, eq=False)
class Posterior:
    """What stars and prior say of the surfaces.

    Attributes
    ----------
    mean : of the coefficients [µm]
    evidence : logarithm of the likelihood over that without surfaces
    slope : of the evidence by the logarithm of each σ of the prior
    """

    mean: Float[np.ndarray, " surface"]
    evidence: float
    slope: Float[np.ndarray, " surface"]


def _fall(waves: Sequence[Wave]) -> Float[np.ndarray, " wave"]:
    """Half the logarithm by which power falls at each wave, for a slope of 1, negative."""
    frequency = np.hypot(*np.array(waves, dtype=float).T) / 2
    return np.asarray(-0.5 * np.log1p((frequency / KNEE) ** 2))


def posterior(problem: Surfaces, sigma: Float[np.ndarray, " surface"]) -> Posterior:
    """Mean and evidence under given standard deviations of the prior [µm]."""
    whole = problem.matrix * sigma[:, None] * sigma
    whole[np.diag_indices_from(whole)] += 1
    root = cholesky(whole, lower=True, overwrite_a=True, check_finite=False)
    pull = sigma * problem.vector
    mean = cho_solve((root, True), pull, check_finite=False)
    evidence = 0.5 * float(pull @ mean) - float(np.log(root.diagonal()).sum())
    inverse, _ = lapack.dpotri(root, lower=1)
    return Posterior(mean=sigma * mean, evidence=evidence, slope=mean**2 + inverse.diagonal() - 1)


def learnt(
    problem: Surfaces,
    *,
    waves: Sequence[Wave],
    degrees: Sequence[int],
    start: Roughness,
    n_steps: int,
) -> tuple[Roughness, Posterior]:
    """The roughness of highest evidence, and the posterior under it.

    Parameters
    ----------
    degrees : of each function of position
    """
    fall, degree = _fall(waves), np.array(degrees)
    n = len(start.rms)

    def roughness(law: np.ndarray) -> Roughness:
        return Roughness(rms=tuple(np.exp(law[:n]).tolist()), slope=float(law[n]))

    def cost(law: np.ndarray) -> tuple[float, np.ndarray]:
        here = roughness(law)
        found = posterior(problem, here.sigma(waves, degrees).ravel())
        slope = found.slope.reshape(len(fall), -1)
        by_rms = np.bincount(degree, weights=slope.sum(0), minlength=n)
        power = np.exp(here.slope * fall)
        mean = float(fall @ power / power.sum())
        off = (here.slope - SLOPE) / SLOPE_SIGMA
        by_slope = 0.5 * float(((fall - mean) @ slope).sum()) - off / SLOPE_SIGMA
        return 0.5 * off**2 - found.evidence, -np.append(by_rms, by_slope)

    first = np.append(np.log(start.rms), start.slope)
    slope = np.abs(cost(first)[1]).max()
    scale = min(1.0, LONGEST_STEP / max(slope, 1e-30))
    bounds = [(math.log(FAINTEST), math.log(STRONGEST))] * n + [(0.0, STEEPEST)]
    best = minimize(
        lambda law: tuple(scale * part for part in cost(law)),
        first,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": n_steps, "ftol": 1e-5},
    )
    law = roughness(best.x)
    return law, posterior(problem, law.sigma(waves, degrees).ravel())
