"""The arrays of one exposure: read for a stage CCD by CCD, written whole by its unit."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from psfscale.arrays import ObjectFlag, Role
from psfscale.errors import StoreError
from psfscale.pipeline.ledger.files import flush
from psfscale.pipeline.storage import array_of
from psfscale.store.layout import open_root, write_region
from psfscale.store.schema import ArraySpec

if TYPE_CHECKING:
    from pathlib import Path

    import zarr

    from psfscale.pipeline.context import RunContext
    from psfscale.pipeline.stages import Stage

_OBJECT_DIMS = ("star", "galaxy")


@lru_cache(maxsize=4)
def _root(path: Path, lease: str, mode: str) -> zarr.Group:  # noqa: ARG001 (a new driver opens anew)
    return open_root(path, mode=mode)


@lru_cache(maxsize=256)
def _array(path: Path, name: str, lease: str, mode: str = "r") -> zarr.Array[Any]:
    return array_of(_root(path, lease, mode), name)


class ExposureReader:
    """Inputs of a stage on one exposure.

    Arrays that are stored by CCD (stamps) are read CCD by CCD; arrays that are stored by
    exposure are read once, when first needed.
    """

    def __init__(self, stage: Stage, context: RunContext, exposure: int, *, lease: str) -> None:
        self.stage, self.context, self.exposure, self.lease = stage, context, exposure, lease
        self._whole: dict[str, np.ndarray] = {}

    @property
    def exposure_id(self) -> str:
        """Id of the exposure."""
        return str(_array(self.context.config.survey, "exposures/id", self.lease)[self.exposure])

    def ccd_id(self, ccd: int) -> int:
        """Id of a CCD."""
        return int(np.asarray(_array(self.context.config.survey, "ccd", self.lease)[ccd]))

    def roles(self, ccd: int) -> np.ndarray:
        """Roles of the objects that the stage works on."""
        return self._read(self.context.config.survey, self.stage.objects, ccd)

    def ccd(self, ccd: int) -> xr.Dataset:
        """All inputs on one CCD, under their paths; dims other than objects by ``group.dim``."""
        variables = {}
        for source in self.stage.inputs:
            config = self.context.config
            store = config.survey if source.store == "survey" else config.output
            values = self._read(store, source.path, ccd)
            group = source.path.rpartition("/")[0]
            names = getattr(_array(store, source.path, self.lease).metadata, "dimension_names", ())
            dims = tuple(d if d in _OBJECT_DIMS else f"{group}.{d}" for d in names[2:])
            variables[source.path] = (dims, values)
        return xr.Dataset(variables)

    def _read(self, store: Path, path: str, ccd: int) -> np.ndarray:
        array = _array(store, path, self.lease)
        if (array.shards or array.chunks)[1] == 1:
            return np.asarray(array[self.exposure, ccd])
        key = f"{store}:{path}"
        if key not in self._whole:
            self._whole[key] = np.asarray(array[self.exposure])
        return np.asarray(self._whole[key][ccd])


class ExposureWriter:
    """Outputs of a stage on one exposure, each stored object written once and whole.

    Parameters
    ----------
    keep : start from what is stored and replace only what is taken or left empty
    """

    def __init__(
        self, stage: Stage, context: RunContext, exposure: int, *, lease: str, keep: bool
    ) -> None:
        self.stage, self.run, self.exposure, self.lease = stage, context.run, exposure, lease
        self._buffers = {s.path: self._buffer(s, keep) for s in stage.outputs if s.owner != "ccd"}
        self._touched: list[Path] = []

    def take(self, ccd: int, results: xr.Dataset) -> None:
        """Take the results of one CCD.

        Raises
        ------
        StoreError
            They are not the arrays that the stage declares, or of other shapes.
        """
        declared = {spec.path for spec in self.stage.outputs}
        returned = {str(name) for name in results}
        if returned != declared:
            missing, more = declared - returned, returned - declared
            msg = (
                f"stage {self.stage.name} left out {sorted(missing)}, returned also {sorted(more)}"
            )
            raise StoreError(msg)
        values = {s.path: self._checked(s, results[s.path].values) for s in self.stage.outputs}
        for spec in self.stage.outputs:
            self._put(spec, ccd, values[spec.path])

    def leave_empty(self, ccd: int, roles: np.ndarray) -> None:
        """Fill a CCD without results, and flag its objects as without PSF."""
        for spec in self.stage.outputs:
            values = np.full(self._array(spec).shape[2:], spec.fill, spec.dtype)
            if spec.path == self.stage.missing:
                values = np.where(roles != Role.EMPTY, int(ObjectFlag.PSF_MISSING), 0)
            self._put(spec, ccd, values.astype(spec.dtype))

    def close(self) -> None:
        """Write what is stored by exposure, and have everything on the disk."""
        for path, values in self._buffers.items():
            array = _array(self.run, path, self.lease, "r+")
            write_region(array, (self.exposure,), values)
            self._note(array, (self.exposure,))
        for file in self._touched:
            flush(file)

    def _array(self, spec: ArraySpec) -> zarr.Array[Any]:
        return _array(self.run, spec.path, self.lease, "r+")

    def _buffer(self, spec: ArraySpec, keep: bool) -> np.ndarray:
        array = self._array(spec)
        if keep:
            return np.array(array[self.exposure])
        return np.full(array.shape[1:], spec.fill, spec.dtype)

    def _checked(self, spec: ArraySpec, values: np.ndarray) -> np.ndarray:
        shape = self._array(spec).shape[2:]
        if values.shape != shape:
            msg = (
                f"stage {self.stage.name} returned {spec.path} of shape {values.shape}, "
                f"declared {shape}"
            )
            raise StoreError(msg)
        return values.astype(spec.dtype)

    def _put(self, spec: ArraySpec, ccd: int, values: np.ndarray) -> None:
        if spec.path in self._buffers:
            self._buffers[spec.path][ccd] = values
        else:
            array, index = self._array(spec), (self.exposure, ccd)
            write_region(array, index, values)
            self._note(array, index)

    def _note(self, array: zarr.Array[Any], index: tuple[int, ...]) -> None:
        key = array.metadata.encode_chunk_key((*index, *[0] * (array.ndim - len(index))))
        self._touched.append(self.run / array.path / key)
