"""What fields kept as plain arrays share: settings, state and the stamp they were fitted on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from pydantic import BaseModel

from psfscale.errors import FitError, InputError
from psfscale.models.base import StateArray
from psfscale.yamlfile import with_options

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from psfscale.models.base import PsfModel

S = TypeVar("S", bound=BaseModel)

CENTROID_WINDOW = StateArray(
    name="width",
    dims=(),
    shape=(),
    dtype="float64",
    units="pixel",
    long_name="σ of the window that defines the PSF's centroid [CCD pixel]",
)


def position_box(long_name: str) -> StateArray:
    """The range of x and y that a field was fitted on, as an array of its state."""
    return StateArray(
        name="box",
        dims=("axis", "bound"),
        shape=(2, 2),
        dtype="float64",
        units="pixel",
        long_name=long_name,
    )


def widened(field: PsfModel, settings: BaseModel) -> dict[str, np.ndarray]:
    """Return the state of a field of simpler settings in the shapes that `settings` declare.

    A field that has its own way of it has a method ``widened``; else arrays are padded, as
    `StateArray` has it.
    """
    own: Any = getattr(field, "widened", None)
    if own is not None:
        return dict(own(settings))
    state = field.state()
    return {
        array.name: _padded(state.get(array.name), array)
        for array in type(field).state_arrays(settings, field.stamp_shape)
    }


def _padded(values: np.ndarray | None, array: StateArray) -> np.ndarray:
    dtype = np.dtype(array.dtype)
    full = np.full(array.shape, np.nan if dtype.kind == "f" else 0, dtype)
    if values is not None:
        full[tuple(slice(n) for n in values.shape)] = values
    return full


class StoredField(Generic[S]):
    """A PSF field whose state is a dict of arrays; upsampled images, if not said otherwise.

    Parameters
    ----------
    settings : all settings, or None for the defaults
    **options : single settings, over `settings`

    Raises
    ------
    ConfigError
        An option is unknown or its value is wrong.
    """

    name: ClassVar[str]
    settings_class: ClassVar[type[BaseModel]]
    images: ClassVar[str]
    """Array of the state that holds the upsampled images (image, fine_y, fine_x)."""

    def __init__(self, settings: S | None = None, **options: Any) -> None:
        base = settings or self.settings_class()
        chosen: Any = with_options(base, options, name=f"settings of model {self.name!r}")
        self._settings: S = chosen
        self._state: dict[str, np.ndarray] | None = None

    @property
    def settings(self) -> S:
        """The frozen settings the model was built from."""
        return self._settings

    @property
    def stamp_shape(self) -> tuple[int, int]:
        """(y, x) CCD pixels of the stars that were fitted.

        Raises
        ------
        FitError
            The model was not fitted yet.
        """
        return self._stamp(self._fitted())

    @classmethod
    def state_arrays(cls, settings: Any, stamp_shape: tuple[int, int]) -> Iterable[StateArray]:
        """The arrays that `state` returns for these settings and star stamps (y, x)."""
        raise NotImplementedError

    def state(self) -> dict[str, np.ndarray]:
        """The fitted model as plain arrays, exactly those that `state_arrays` declares."""
        return {name: array.copy() for name, array in self._fitted().items()}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], settings: Any) -> Self:
        """The model that `state` came from; predicts the same bits.

        Raises
        ------
        InputError
            An array is missing or of another shape than the settings say.
        """
        model = cls(settings)
        model._state = cls._checked(state, model.settings, model._stamp(state))
        return model

    @classmethod
    def _checked(
        cls, state: Mapping[str, np.ndarray], settings: Any, stamp_shape: tuple[int, int]
    ) -> dict[str, np.ndarray]:
        """Copies of the arrays of a state, each of the shape that the settings say."""
        arrays = {}
        for expected in cls.state_arrays(settings, stamp_shape):
            array = np.asarray(state.get(expected.name, np.empty(0)), dtype=expected.dtype)
            if array.shape != expected.shape:
                msg = (
                    f"state array {expected.name!r} has shape {array.shape}, expected "
                    f"{expected.shape} for these settings"
                )
                raise InputError(msg)
            arrays[expected.name] = array.copy()
        return arrays

    @property
    def _fine_upsampling(self) -> int:
        """Pixels of the stored images per CCD pixel, along an axis."""
        settings: Any = self._settings
        return int(settings.upsampling)

    def _stamp(self, state: Mapping[str, np.ndarray]) -> tuple[int, int]:
        shape = np.shape(state.get(self.images, np.empty((0, 0, 0))))
        return shape[-2] // self._fine_upsampling, shape[-1] // self._fine_upsampling

    def _fitted(self) -> dict[str, np.ndarray]:
        if self._state is None:
            msg = (
                f"this {self.name.upper()} model has no field yet: call fit, or build it with "
                "from_state"
            )
            raise FitError(msg)
        return self._state
