"""What a WaveDiff fit leaves, and what it tells on its way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Bool, Float
    from torch import Tensor

    from psfscale.models.position import PositionPolynomials
    from psfscale.models.wavediff.forward import Nuisances, Wavefronts
    from psfscale.models.wavediff.stars import StarLight

__all__ = ["Phase", "Step", "Trained"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step within a phase of a fit has ended.

    Attributes
    ----------
    name : of the phase
    step : steps of it that have ended
    done, total : phases that have ended, of how many, as far as is known
    reduced_chi2 : of the stars that the step was of; softened, in the search
    seconds : of wall time since the phase began
    """

    name: str
    step: int
    done: int
    total: int
    reduced_chi2: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A phase of a fit has ended.

    Attributes
    ----------
    name : of the phase
    done, total : phases that have ended, of how many, as far as is known
    reduced_chi2 : of the stars in use, or None as long as it is not known
    seconds : of wall time that it took
    steps : (reduced χ², seconds since the phase began) of each step
    """

    name: str
    done: int
    total: int
    reduced_chi2: float | None
    seconds: float
    steps: tuple[tuple[float, float], ...] = ()

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """From the plain values of `dataclasses.asdict`, or of JSON."""
        steps = tuple((float(chi2), float(seconds)) for chi2, seconds in record["steps"])
        return cls(**{**record, "steps": steps})


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """What a fit leaves.

    Attributes
    ----------
    wavefronts, positions : the field of wavefronts and its functions of position
    surface : (function, cosine, cosine) coefficients beyond the Zernikes [µm], or None
    light, nuisances : the stars' own parameters, and which of them were fitted
    used : (star,) False for stars clipped
    chi2, n_pixels : (star,)
    stamp : (star, y, x) PSFs of the stars
    n_steps, converged : of the last refinement
    """

    wavefronts: Wavefronts
    positions: PositionPolynomials
    surface: Float[Tensor, "function cosine cosine"] | None
    light: StarLight
    nuisances: Nuisances
    used: Bool[Tensor, " star"]
    chi2: Float[Tensor, " star"]
    n_pixels: Float[Tensor, " star"]
    stamp: Float[Tensor, "star y x"]
    n_steps: int
    converged: bool
