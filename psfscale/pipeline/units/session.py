"""What a process keeps of a run while it works for one driver: open arrays, objects read last."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from psfscale.pipeline.runs.context import read_context
from psfscale.pipeline.runs.store import run_packing
from psfscale.pipeline.stages.context import RunContext
from psfscale.pipeline.stages.registry import stages_of
from psfscale.store.packs import leading_dims
from psfscale.store.shards import StoredArray
from psfscale.store.stores import array_of, attributes_of, open_root, values_of

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import zarr

    from psfscale.pipeline.stages.stage import Stage
    from psfscale.store.packs import Packing, Place
    from psfscale.store.schema import ArraySpec

WARM_BYTES = 2**28
"""Of stored objects that a process keeps, since the stages of an exposure read the same ones."""
NEVER_FILL = ("image", "weight", "role", "x", "y")
"""Arrays of a survey's objects that hold more than fill values wherever there are objects."""
_OBJECT_DIMS = ("star", "galaxy")


class Session:
    """A run's context, stages and open stores.

    Parameters
    ----------
    context : of the run
    """

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self._roots: dict[Path, zarr.Group] = {}
        self._arrays: dict[str, StoredArray] = {}
        self._dims: dict[tuple[str, bool], tuple[str, ...]] = {}
        self._warm: OrderedDict[tuple[int, tuple[int, ...]], np.ndarray] = OrderedDict()
        self._n_warm = 0

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """The stages of the run by name."""
        return stages_of(self.context)

    @cached_property
    def packing(self) -> Packing:
        """Where the arrays of the run lie in its store."""
        return run_packing(self.context)

    @cached_property
    def specs(self) -> dict[str, ArraySpec]:
        """All outputs of all stages by path."""
        return {spec.path: spec for stage in self.stages.values() for spec in stage.outputs}

    @cached_property
    def ids(self) -> tuple[list[str], list[int]]:
        """Ids of the exposures and of the CCDs."""
        root = self._root(self.context.config.survey, write=False)
        exposures = values_of(root, "exposures/id")
        return [str(i) for i in exposures], [int(i) for i in values_of(root, "ccd")]

    @cached_property
    def spectra(self) -> tuple[np.ndarray | None, np.ndarray]:
        """The survey's templates, None where stars bring their own, and the wavelengths [µm]."""
        root = self._root(self.context.config.survey, write=False)
        templates = values_of(root, "seds/sed") if "seds/sed" in root else None
        return templates, values_of(root, "seds/wavelength")

    @cached_property
    def driver_versions(self) -> dict[str, str]:
        """Versions of the packages of the run's latest driver."""
        stored = attributes_of(self._root(self.context.run, write=True))
        return dict(stored.get("versions", {}))

    def of_survey(self, path: str) -> StoredArray:
        """An array of the survey store."""
        return self._open(self.context.config.survey, path, write=False)

    @cached_property
    def objects_of_survey(self) -> dict[str, np.ndarray]:
        """Numbers of objects that ingest has stored, (exposure, ccd), by group."""
        root = self._root(self.context.config.survey, write=False)
        counts = {group: f"exposures/n_{group}" for group in ("stars", "galaxies")}
        return {group: values_of(root, path) for group, path in counts.items() if path in root}

    def is_required(self, path: str, exposure: int, ccd: int | None) -> bool:
        """Whether an array of the survey must have a file for an exposure, or for its CCD.

        Fill values alone are stored nowhere, but no object is without pixels, role and position.
        """
        group, _, name = path.partition("/")
        if name not in NEVER_FILL or group not in self.objects_of_survey:
            return False
        counts = self.objects_of_survey[group][exposure]
        return bool((counts if ccd is None else counts[ccd : ccd + 1]).any())

    def of_run(self, path: str) -> tuple[StoredArray, Place | None]:
        """The array of the run store that holds a declared array, and where in it."""
        place = self.packing.places.get(path)
        return self._open(self.context.run, place.path if place else path, write=True), place

    def dims(self, path: str, *, survey: bool) -> tuple[str, ...]:
        """Dims of an array on one CCD, those other than objects as ``group.dim``."""
        if (path, survey) not in self._dims:
            self._dims[path, survey] = self._find_dims(path, survey=survey)
        return self._dims[path, survey]

    def _find_dims(self, path: str, *, survey: bool) -> tuple[str, ...]:
        if survey:
            array = self.of_survey(path).array
            names = getattr(array.metadata, "dimension_names", None) or ()
        else:
            names = self.specs[path].dims
        group, leading = path.rpartition("/")[0], leading_dims(names)
        return tuple(d if d in _OBJECT_DIMS else f"{group}.{d}" for d in names[len(leading) :])

    def read(
        self, stored: StoredArray, index: tuple[int, ...], *, required: bool = False
    ) -> np.ndarray:
        """Return one stored object, not to be changed; those read last are at hand.

        Raises
        ------
        FileNotFoundError
            The object is `required` and its file is lost, or not to be seen yet on a slow file
            system; without `required` it reads as fill values.
        StoreError
            The object is damaged.
        """
        key = id(stored), index
        if key in self._warm:
            self._warm.move_to_end(key)
            return self._warm[key]
        if required:
            stored.require(index)
        values = stored.read(index)
        values.flags.writeable = False
        self._warm[key] = values
        self._n_warm += values.nbytes
        while self._n_warm > WARM_BYTES and len(self._warm) > 1:
            self._n_warm -= self._warm.popitem(last=False)[1].nbytes
        return values

    def write(self, stored: StoredArray, index: tuple[int, ...], values: np.ndarray) -> int | None:
        """Write one stored object, whole; returns its checksum, as `StoredArray.write`."""
        checksum = stored.write(index, values, keep=True)
        old = self._warm.pop((id(stored), index), None)
        self._n_warm -= 0 if old is None else old.nbytes
        return checksum

    def products(self, stage: str) -> list[tuple[StoredArray, tuple[int, ...]]]:
        """What a unit of the stage writes: arrays, and the indices behind the exposure's."""
        found: dict[str, tuple[StoredArray, bool]] = {}
        for spec in self.stages[stage].outputs:
            if spec.owner in ("exposure", "ccd"):
                stored, _ = self.of_run(spec.path)
                found[stored.array.path] = stored, spec.owner == "ccd"
        n_ccds = self.context.sizes["ccd"]
        return [
            (stored, index)
            for stored, by_ccd in found.values()
            for index in ([(ccd,) for ccd in range(n_ccds)] if by_ccd else [()])
        ]

    def _open(self, store: Path, path: str, *, write: bool) -> StoredArray:
        key = f"{store}:{path}"
        if key not in self._arrays:
            self._arrays[key] = StoredArray(array_of(self._root(store, write=write), path))
        return self._arrays[key]

    def _root(self, store: Path, *, write: bool) -> zarr.Group:
        if store not in self._roots:
            self._roots[store] = open_root(store, mode="r+" if write else "r")
        return self._roots[store]


@lru_cache(maxsize=2)
def session_of(
    run: Path,
    lease: str,  # noqa: ARG001 (a new driver opens all anew)
    device: str = "auto",
) -> Session:
    """The session of a process that works for the driver of this lease.

    Raises
    ------
    StoreError
        There is no run store, or it does not hold a run.
    """
    return Session(replace(read_context(run), device=device))
