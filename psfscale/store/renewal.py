"""Arrays of a store replaced in one step: after a crash all are the old, or all the new."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import zarr

from psfscale.files import replace_file
from psfscale.store.stores import STATE_DIRECTORY, add_arrays, open_root

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import numpy as np

    from psfscale.store.schema import ArraySpec

_FOLDER, _READY, _OLD = "renewed", "ready.json", "old"


def renew(
    path: Path,
    specs: Iterable[ArraySpec],
    *,
    sizes: Mapping[str, int],
    values: Mapping[str, np.ndarray],
) -> None:
    """Make arrays that are missing, and others anew; the writer's that is alone in the store.

    They are made beside the store's arrays and moved to their places when all are whole.

    Parameters
    ----------
    path : of the store
    specs : the arrays
    sizes : length of each dim; ``group.dim`` comes before ``dim``
    values : of those that are not to be empty, by path
    """
    finish_renewal(path)
    specs, folder = list(specs), path / STATE_DIRECTORY / _FOLDER
    if not specs:
        return
    made: Any = zarr.create_group(folder, zarr_format=3)
    add_arrays(made, specs, sizes=sizes)
    for name, content in values.items():
        made[name][...] = content
    root = open_root(path, mode="r+")
    for group in sorted({spec.group for spec in specs} - {""}):
        root.require_group(group)
    ready = json.dumps([spec.path for spec in specs])
    replace_file(folder / _READY, ready.encode())
    finish_renewal(path)


def finish_renewal(path: Path) -> None:
    """Finish what `renew` had made ready when it died, or drop what it had not."""
    folder = path / STATE_DIRECTORY / _FOLDER
    ready = folder / _READY
    if ready.is_file():
        for name in json.loads(ready.read_bytes()):
            _move_in(folder / name, path / name, folder / _OLD / name)
        ready.unlink()
    if folder.exists():
        shutil.rmtree(folder)


def _move_in(new: Path, place: Path, old: Path) -> None:
    if not new.exists():  # it was moved before the crash
        return
    if place.exists():
        old.parent.mkdir(parents=True, exist_ok=True)
        place.rename(old)
    new.rename(place)
