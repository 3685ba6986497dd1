"""Create, grow, write and open stores; the only place that writes zarr arrays.

Plain Zarr v3 on a file system. Arrays are created by the driver alone, with the chunks and
shards of `psfscale.store.schema`; a writer hands over whole stored objects, and a region
that would cut one is refused (two writers in one shard lose rows silently).
"""

from __future__ import annotations

import json
import shutil
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.errors import ZarrUserWarning

from psfscale.attributes import from_stored, to_stored
from psfscale.errors import StoreError
from psfscale.store.packs import unpacked
from psfscale.store.shards import StoredArray
from psfscale.store.versions import (
    AGGREGATES,
    METADATA,
    SCHEMA_VERSION,
    VERSION_ATTRIBUTE,
    local_store,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from psfscale.store.schema import ArraySpec

ADVICE = "`psfscale verify --repair` puts right what it can"
EXPOSURE = "exposure"
"""Axis that stores grow along, and the array of its labels."""
STATE_DIRECTORY = ".psfscale"
"""Folder in a store that holds what is not arrays: markers, ledger, lease, refusals."""


def create_store(
    path: Path,
    specs: Iterable[ArraySpec],
    *,
    sizes: Mapping[str, int],
    attributes: Mapping[str, Any],
) -> zarr.Group:
    """Create a store with all its arrays, empty, and return its root group.

    Parameters
    ----------
    path : where; must not exist
    specs : the arrays
    sizes : length of each dim; ``group.dim`` comes before ``dim``
    attributes : of the root group; the schema version is added, and what is neither text nor
        numbers is stored as JSON text (`attributes_of` reads it)

    Raises
    ------
    StoreError
        Something lies at `path` already.
    """
    if path.exists():
        msg = f"{path} exists already; choose another path or remove it"
        raise StoreError(msg)
    stored = {VERSION_ATTRIBUTE: SCHEMA_VERSION, **to_stored(attributes)}
    root = zarr.create_group(path, zarr_format=3, attributes=stored)
    try:
        add_arrays(root, specs, sizes=sizes)
    except BaseException:
        shutil.rmtree(path)  # nothing half-created is left looking whole
        raise
    consolidate(path)
    return root


def add_arrays(root: zarr.Group, specs: Iterable[ArraySpec], *, sizes: Mapping[str, int]) -> None:
    """Create empty arrays of the schema below an open root group."""
    for spec in specs:
        shape, shard, chunk = spec.shape(sizes), spec.shard(sizes), spec.chunk(sizes)
        root.create_array(
            spec.path,
            shape=shape,
            dtype=str if spec.dtype == "str" else spec.dtype,
            chunks=chunk,
            shards=None if shard == chunk else shard,
            compressors=[ZstdCodec(level=1), Crc32cCodec()],
            fill_value=spec.fill,
            dimension_names=spec.dims,
            # "/" would make a folder of every index: three more inodes for a CCD's one file.
            chunk_key_encoding={"name": "default", "separator": "."},
            attributes=_attributes(spec),
        )


def _attributes(spec: ArraySpec) -> dict[str, Any]:
    return {"units": spec.units, "long_name": spec.long_name, **dict(spec.attributes)}


def consolidate(path: Path) -> None:
    """Gather all metadata into the root, so that a reader opens one file."""
    with warnings.catch_warnings():
        # zarr-python warns that v3 has not yet standardised this, and of our state folder.
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(path)


def consolidated(path: Path) -> frozenset[str]:
    """Return paths of all groups and arrays that a store had when its metadata were gathered."""
    document = json.loads((path / METADATA).read_bytes())
    gathered = document.get("consolidated_metadata") or {"metadata": {}}
    return frozenset(gathered["metadata"])


def open_root(path: Path, *, mode: str = "r") -> zarr.Group:
    """The root group of a psfscale store, to read (``r``) or to write (``r+``).

    Raises
    ------
    StoreError
        There is no store at `path`, or it is of a later schema version.
    """
    store = local_store(path, read_only=mode == "r")
    with _named_damage(path):
        return zarr.open_group(store, mode=mode, use_consolidated=False)  # type: ignore[arg-type]


@contextmanager
def _named_damage(path: Path) -> Iterator[None]:
    """Say of which store the metadata are damaged; zarr raises what parsing them raises."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        msg = (
            f"the metadata of {path} are damaged ({type(error).__name__}: {error}); "
            "`psfscale verify` names the files, --repair puts copies back"
        )
        raise StoreError(msg) from error


def attributes_of(root: zarr.Group) -> dict[str, Any]:
    """Return the attributes of an open store as they were given to `create_store`."""
    return from_stored(root.attrs)


def set_attributes(root: zarr.Group, attributes: Mapping[str, Any]) -> None:
    """Set attributes of an open store in one change; others stay, and so do gathered metadata."""
    whole = zarr.open_group(root.store, mode="r+")
    whole.update_attributes(to_stored({**attributes_of(root), **attributes}))


def open_tree(path: Path) -> xr.DataTree:
    """The store as a lazy xarray tree, every array under its own name.

    Raises
    ------
    StoreError
        There is no store at `path`, or it is of a later schema version.
    """
    root = open_root(path)
    gathered = bool(consolidated(path))
    with _named_damage(path):
        tree = xr.open_datatree(
            root.store,  # type: ignore[arg-type]
            engine="zarr",
            chunks=None,
            consolidated=gathered,
        )
    return unpacked(tree, root)


def write_region(array: zarr.Array[Any], index: tuple[int, ...], values: np.ndarray) -> int | None:
    """Write ``array[index] = values`` if that is one whole stored object.

    Parameters
    ----------
    array : of an open store
    index : leading indices (exposure) or (exposure, ccd)
    values : of shape ``array.shape[len(index):]``

    Returns
    -------
    int or None
        `StoredArray.checksum` of what is stored; None where that is fill values alone

    Raises
    ------
    StoreError
        The region is not one whole stored object, or the values have another shape.
    """
    return StoredArray(array).write(index, values)


def n_exposures_of(root: zarr.Group) -> int:
    """Return how many exposures an open store has; arrays may be longer while it grows."""
    return int(root[EXPOSURE].shape[0])  # type: ignore[union-attr]


def dims_of(array: zarr.Array[Any]) -> tuple[str | None, ...]:
    """Return the names of an array's dims."""
    names: Any = array.metadata.to_dict().get("dimension_names")
    return tuple(names or ())


def grow(path: Path, n_exposures: int | None = None) -> int:
    """Bring every array of a store to one length along the exposure axis; none is shortened.

    The array ``exposure`` is lengthened last, and readers take the length of all others from it.
    So a store whose growth was interrupted reads as before, and the same call goes on.

    Parameters
    ----------
    path : of the store, which nobody else changes meanwhile
    n_exposures : wanted; the length of the longest array if not given

    Returns
    -------
    int
        the length

    Raises
    ------
    StoreError
        The store is longer already, or missing.
    """
    root = open_root(path, mode="r+")
    arrays = {name: array for name, array in _arrays(root) if dims_of(array)[:1] == (EXPOSURE,)}
    longest = max(array.shape[0] for array in arrays.values())
    wanted = longest if n_exposures is None else n_exposures
    if longest > wanted:
        msg = f"{path} holds {longest} exposures, cannot shrink to {wanted}"
        raise StoreError(msg)
    for _, array in sorted(arrays.items(), key=lambda item: item[0] == EXPOSURE):
        if array.shape[0] < wanted:
            array.resize((wanted, *array.shape[1:]))
    consolidate(path)
    return wanted


def _arrays(root: zarr.Group) -> Iterator[tuple[str, zarr.Array[Any]]]:
    """All arrays of a store by path; tables made from it aside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)  # zarr-python warns of our state folder
        members = root.members(max_depth=None)
    for name, array in members:
        if isinstance(array, zarr.Array) and not name.startswith(f"{AGGREGATES}/"):
            yield name, array


def array_of(root: zarr.Group, path: str) -> zarr.Array[Any]:
    """Return one array of an open store.

    Raises
    ------
    StoreError
        The store has no such array, or its metadata are damaged.
    """
    try:
        found = root.get(path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"the metadata of {path} in {root.store_path} are damaged ({error}); {ADVICE}"
        raise StoreError(msg) from error
    if not isinstance(found, zarr.Array):
        msg = f"{root.store_path} has no array {path}; was it written by this psfscale?"
        raise StoreError(msg)
    return found


def values_of(root: zarr.Group, path: str) -> np.ndarray:
    """Return all values of one array of an open store, of the exposures that the store has.

    Raises
    ------
    StoreError
        The store has no such array, or a stored object of it is damaged.
    """
    array = array_of(root, path)
    try:
        if dims_of(array)[:1] == (EXPOSURE,) and path != EXPOSURE:
            return np.asarray(array[: n_exposures_of(root)])  # more where growth was interrupted
        return np.asarray(array[...])
    except (ValueError, RuntimeError, TypeError) as error:
        msg = f"{path} in {root.store_path} is damaged ({error}); {ADVICE}"
        raise StoreError(msg) from error
