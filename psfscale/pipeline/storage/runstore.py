"""The run store: made and lengthened by the driver, filled by units, read by everyone."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from psfscale.arrays import UnitState
from psfscale.attributes import enumeration_attributes
from psfscale.config import fingerprint
from psfscale.errors import StoreError
from psfscale.pipeline.ledger.books import Books, stages_in
from psfscale.pipeline.stages.context import require_run
from psfscale.pipeline.stages.declared import STAGE_NAMES, stages_of
from psfscale.pipeline.storage import array_of, values_of
from psfscale.store.layout import (
    add_arrays,
    consolidate,
    create_store,
    grow,
    open_root,
    set_attributes,
)
from psfscale.store.models import run_sizes
from psfscale.store.packs import Packing
from psfscale.store.schema import RUN_SCHEMA, ArraySpec
from psfscale.store.versions import require_current

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import zarr

    from psfscale.pipeline.stages.context import RunContext


def run_packing(context: RunContext) -> Packing:
    """All arrays of the run's store, its model's included, and how they are packed."""
    units = [spec for stage in stages_of(context).values() for spec in stage.outputs]
    driver = [spec for spec in RUN_SCHEMA if spec.stage not in STAGE_NAMES]
    sizes = {**context.sizes, "stage": len(STAGE_NAMES)}
    for model in context.models:
        sizes |= run_sizes(model.name, model.state_arrays(context.stamp_shape))
    return Packing.of((*driver, *units), sizes)


def create_run_store(context: RunContext) -> None:
    """Have an empty run store stand at the output path, unless one stands there already.

    It is made beside its place and moved there in one step, so it is whole or absent.

    Raises
    ------
    StoreError
        Something else lies at the path, or a store of an earlier schema version.
    """
    run = context.run
    if (run / "zarr.json").exists():
        require_current(run)
        require_run(open_root(run), run)
        return
    if run.exists() and any(run.iterdir()):
        msg = f"{run} holds something that is not a psfscale store; choose another output"
        raise StoreError(msg)
    run.parent.mkdir(parents=True, exist_ok=True)
    new = run.with_name(f".{run.name}.{os.getpid()}.new")
    shutil.rmtree(new, ignore_errors=True)
    packing = run_packing(context)
    create_store(new, packing.stored, sizes=packing.sizes, attributes=context.attributes())
    array_of(open_root(new, mode="r+"), "stage")[...] = np.asarray(STAGE_NAMES, dtype=object)
    try:
        new.rename(run)
    except OSError:
        shutil.rmtree(new)
        if not (run / "zarr.json").exists():  # else another driver was faster
            raise


def prepare_run_store(context: RunContext) -> None:
    """Bring the run store to the length of the survey and to the shapes wanted now.

    Arrays whose shape the settings have changed are made anew, and the units that wrote them
    are forgotten. Only the driver that holds the lease may call this.
    """
    run, packing = context.run, run_packing(context)
    survey = open_root(context.config.survey)
    content = [str(digest) for digest in values_of(survey, "exposures/content")]
    n_exposures = packing.sizes["exposure"]
    if array_of(open_root(run), "exposure").shape[0] < n_exposures:
        grow(run, n_exposures)
    root = open_root(run, mode="r+")
    _renew(root, run, packing)
    for name in ("exposure", "ccd"):
        array_of(root, name)[...] = values_of(survey, name)
    states = enumeration_attributes(dict(UnitState.__members__))
    array_of(root, "ccds/state").attrs.update(states)  # a store of before has fewer
    for path, labels in packing.labels.items():
        array_of(root, path)[...] = np.asarray(labels, dtype=object)
    set_attributes(root, {**context.attributes(), "survey_fingerprint": fingerprint(content)})
    consolidate(run)


def _renew(root: zarr.Group, run: Path, packing: Packing) -> None:
    """Make missing arrays, and anew those of another shape or type."""
    sizes = packing.sizes
    lost = [s for s in packing.stored if s.path not in root or not _fits(root[s.path], s, sizes)]
    before = {s.path: values_of(root, s.path) for s in lost if "stage" in s.dims and s.path in root}
    there = stages_in(root)
    for spec in lost:
        if spec.path in root:
            del root[spec.path]
    add_arrays(root, lost, sizes=sizes)
    for path, values in before.items():
        _keep_stages(root, path, values, there)
    array_of(root, "stage")[...] = np.asarray(STAGE_NAMES, dtype=object)
    stages = {spec.stage for spec in lost} & set(STAGE_NAMES)
    if stages:
        exposures = range(array_of(root, "exposure").shape[0])
        Books(run).strike_out([(stage, e) for stage in sorted(stages) for e in exposures])


def _keep_stages(root: zarr.Group, path: str, values: np.ndarray, there: list[str]) -> None:
    """Hand the entries of known stages on to an array made anew for more stages."""
    array = array_of(root, path)
    if array.ndim and path != "stage":
        new = np.array(array[...])
        for k, name in enumerate(STAGE_NAMES):
            if name in there:
                new[..., k] = values[..., there.index(name)]
        array[...] = new


def _fits(array: Any, spec: ArraySpec, sizes: Mapping[str, int]) -> bool:
    """Whether a stored array is as the specification wants it; the driver's chunks are free."""
    same_cut = spec.owner in ("driver", "ledger") or (
        array.chunks == spec.chunk(sizes) and (array.shards or array.chunks) == spec.shard(sizes)
    )
    return bool(same_cut and array.shape == spec.shape(sizes))
