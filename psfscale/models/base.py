"""What every PSF model of psfscale offers, and the registry one can read.

A model never sees a path: its state is plain arrays of declared shapes, so that saving,
loading and stacking over CCDs are written once for all models (`psfscale.store.saved_models`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from jaxtyping import Bool, Float

    from psfscale.arrays import FieldPoints, PixelGrid, StarBatch
    from psfscale.quality import Doubt


@dataclass(frozen=True, kw_only=True)
class StateArray:
    """Shape and meaning of one array of a model's state.

    `shape` is what the settings and the stamp allow at most; a model that needs less
    (fewer components) pads with NaN (floats) or 0 (integers), so that the states of
    many CCDs stack into one stored array.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    units: str
    long_name: str


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """What a fit found, star by star and in sum.

    Attributes
    ----------
    used : (star,) False for stars clipped as outliers
    flux : (star,) [electron]
    shift_x, shift_y : (star,) [pixel], centroid of the star from the centre of its stamp
    flux_error, shift_x_error, shift_y_error : (star,) standard errors for a known PSF: of the
        noise, and of what the star misses any model by where the fit estimates that; the error
        of the PSF itself is not in them. NaN where the model or the star has none
    chi2 : (star,) reduced chi² of the star's pixels against the model
    reduced_chi2 : of all used stars
    n_iterations : of the outer solver
    converged : False where the solver stopped at its limit
    doubts : quality checks, at their default limits, that the stars or the fit did not pass
    """

    used: Bool[np.ndarray, " star"]
    flux: Float[np.ndarray, " star"]
    shift_x: Float[np.ndarray, " star"]
    shift_y: Float[np.ndarray, " star"]
    flux_error: Float[np.ndarray, " star"]
    shift_x_error: Float[np.ndarray, " star"]
    shift_y_error: Float[np.ndarray, " star"]
    chi2: Float[np.ndarray, " star"]
    reduced_chi2: float
    n_iterations: int
    converged: bool
    doubts: tuple[Doubt, ...] = ()


class Checkpoint(Protocol):
    """Where a long fit leaves itself between two phases, and finds itself after a kill.

    A model that can go on has an attribute ``checkpoint``, None unless set. What is saved
    replaces what was saved before; a model ignores what is not of the same fit.
    """

    def load(self) -> Mapping[str, np.ndarray] | None:
        """What was saved last, or None."""
        ...

    def save(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep plain arrays (numbers and text), whole or not at all."""
        ...


class PsfModel(Protocol):
    """A PSF field: fitted to the stars of a CCD, evaluated anywhere on it."""

    name: ClassVar[str]

    @property
    def settings(self) -> Any:
        """The frozen pydantic settings the model was built from."""
        ...

    @property
    def stamp_shape(self) -> tuple[int, int]:
        """(y, x) CCD pixels of the stars that were fitted."""
        ...

    @classmethod
    def state_arrays(cls, settings: Any, stamp_shape: tuple[int, int]) -> tuple[StateArray, ...]:
        """The arrays that `state` returns for these settings and star stamps (y, x)."""
        ...

    def fit(self, stars: StarBatch) -> FitReport:
        """Fit the field to the stars, replacing what was fitted before.

        Raises
        ------
        FitError
            The stars do not determine the model.
        """
        ...

    def predict(self, at: FieldPoints, grid: PixelGrid) -> Float[np.ndarray, "object y x"]:
        """PSFs at positions, each of unit sum, centred on index ``n // 2`` of the grid; float32."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """The fitted model as plain arrays, exactly those that `state_arrays` declares."""
        ...

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], settings: Any) -> Self:
        """The model that `state` came from; predicts the same bits."""
        ...
