"""Fitted models as plain arrays: many in a run store, one in a small store of its own."""

from __future__ import annotations

from dataclasses import asdict
from importlib import import_module
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from psfscale.errors import StoreError
from psfscale.files import require_new, write_whole_folder
from psfscale.store.schema import ArraySpec
from psfscale.store.stores import attributes_of, create_store, open_root
from psfscale.yamlfile import validate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def run_specs(
    name: str, arrays: Iterable[Any], *, of_exposure: bool = False, stage: str = "fit"
) -> tuple[ArraySpec, ...]:
    """A model's state as arrays of a run store, ``models/<name>/<array>``.

    The largest is stored by itself, the others together in the pack ``parameters``.

    Parameters
    ----------
    name : of the model
    arrays : of its state, as `psfscale.models.base.StateArray`
    of_exposure : one field covers all CCDs of an exposure
    stage : that writes them
    """
    arrays = tuple(arrays)
    leading = ("exposure",) if of_exposure else ("exposure", "ccd")
    largest = max(arrays, key=lambda array: prod(array.shape), default=None)
    return tuple(
        ArraySpec(
            path=f"models/{name}/{array.name}",
            dims=(*leading, *array.dims),
            dtype=array.dtype,
            units=array.units,
            long_name=array.long_name,
            owner="exposure",
            stage=stage,
            pack="" if array is largest else "parameters",
        )
        for array in arrays
    )


def run_sizes(name: str, arrays: Iterable[Any]) -> dict[str, int]:
    """Lengths of the dims of a model's arrays in a run store.

    Raises
    ------
    StoreError
        Two arrays give one dim different lengths.
    """
    sizes: dict[str, int] = {}
    for array in arrays:
        for dim, length in zip(array.dims, array.shape, strict=True):
            key = f"models/{name}.{dim}"
            if sizes.setdefault(key, length) != length:
                msg = f"the state of {name} has dim {dim!r} with lengths {sizes[key]} and {length}"
                raise StoreError(msg)
    return sizes


def save_model(
    model: Any, path: Path, *, hull: np.ndarray | None = None, overwrite: bool = False
) -> None:
    """Write a fitted model to a store of its own, with the history of its fit where it has one.

    Parameters
    ----------
    model : a fitted `psfscale.models.base.PsfModel`
    path : of the store
    hull : (corner, 2) positions (x, y) around the stars that were fitted [pixel]; PSFs beyond are
        extrapolated
    overwrite : whether a model that lies at `path` is replaced

    Raises
    ------
    StoreError
        Something lies at `path` and `overwrite` is False, or the state is not as the model
        declares it.
    """
    declared = type(model).state_arrays(model.settings, model.stamp_shape)
    state = model.state()
    if set(state) != {array.name for array in declared}:
        msg = f"{model.name} declares {[a.name for a in declared]}, its state has {sorted(state)}"
        raise StoreError(msg)
    for array in declared:
        if state[array.name].shape != array.shape:
            found = state[array.name].shape
            msg = f"{model.name}: {array.name} has shape {found}, declared {array.shape}"
            raise StoreError(msg)
    specs = tuple(
        ArraySpec(
            path=array.name,
            dims=array.dims,
            dtype=array.dtype,
            units=array.units,
            long_name=array.long_name,
            owner="driver",
            stage="fit",
        )
        for array in declared
    )
    sizes = {d: n for a in declared for d, n in zip(a.dims, a.shape, strict=True)}
    attributes = {
        "kind": "model",
        "model": model.name,
        "settings": model.settings.model_dump(mode="json"),
        "stamp_shape": list(model.stamp_shape),
        "hull": None if hull is None else np.asarray(hull, np.float64).tolist(),
        "history": [asdict(phase) for phase in getattr(model, "history", ())],
    }
    require_model_place(path, overwrite=overwrite)
    with write_whole_folder(path) as partial:
        root = create_store(partial, specs, sizes=sizes, attributes=attributes)
        for name, values in state.items():
            root[name][...] = values  # type: ignore[index]


def require_model_place(path: Path, *, overwrite: bool) -> None:
    """Refuse, before a fit, a path that its model cannot be saved at.

    Raises
    ------
    StoreError
        Something lies there and `overwrite` is False, or it is no model.
    InputError
        Its folder is missing or may not be written.
    """
    require_new(path, overwrite=overwrite)
    if path.exists() and (not path.is_dir() or not _is_model(path)):
        msg = f"{path} holds no model: --overwrite replaces models alone, remove it yourself"
        raise StoreError(msg)


def _is_model(path: Path) -> bool:
    try:
        return attributes_of(open_root(path)).get("kind") == "model"
    except StoreError:
        return False


def hull_of(path: Path | str) -> np.ndarray | None:
    """Corners (x, y) around the stars of a saved model [pixel]; None where they were not kept."""
    hull = attributes_of(open_root(Path(path))).get("hull")
    return None if hull is None else np.asarray(hull, dtype=np.float64).reshape(-1, 2)


def load_model(path: Path | str) -> Any:
    """The model that `save_model` wrote; predicts the same bits.

    Raises
    ------
    StoreError
        There is no store at `path`, or it holds no model.
    ConfigError
        This psfscale has no such model, or its settings have changed.
    """
    root = open_root(Path(path))
    attributes = attributes_of(root)
    if attributes.get("kind") != "model":
        msg = f"{path} is a store, but not of a model: it was not written by save_model"
        raise StoreError(msg)
    # The stores know no model: the registry of names is asked when one is to be loaded.
    models = import_module("psfscale.models")
    name = str(attributes["model"])
    settings = validate(attributes["settings"], models.settings_class(name), name=f"{path}")
    model = models.load_model_class(name).from_state(read_state(root), settings)
    if hasattr(model, "remember"):
        model.remember(attributes.get("history", ()))
    return model


def read_state(root: Any) -> Mapping[str, np.ndarray]:
    """All arrays of an open store of one model, by name."""
    return {name: np.asarray(array[...]) for name, array in root.arrays()}
