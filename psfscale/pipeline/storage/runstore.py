"""The run store: made and lengthened by the driver, filled by units, read by everyone."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from psfscale.config import fingerprint
from psfscale.errors import StoreError
from psfscale.pipeline.ledger.marker import read_markers, remove_marker
from psfscale.pipeline.stages import STAGE_NAMES, stages_of
from psfscale.pipeline.storage import array_of, values_of
from psfscale.store.layout import add_arrays, consolidate, create_store, grow, open_root
from psfscale.store.models import run_sizes
from psfscale.store.schema import RUN_SCHEMA, ArraySpec

if TYPE_CHECKING:
    from pathlib import Path

    import zarr

    from psfscale.pipeline.context import RunContext


def run_store_specs(context: RunContext) -> tuple[ArraySpec, ...]:
    """All arrays of the run's store, its model's included."""
    units = [spec for stage in stages_of(context).values() for spec in stage.outputs]
    driver = [spec for spec in RUN_SCHEMA if spec.stage not in STAGE_NAMES]
    return (*driver, *units)


def run_store_sizes(context: RunContext) -> dict[str, int]:
    """Length of every dim of the run's store."""
    name = context.config.model.name
    arrays = context.model_class.state_arrays(context.model_settings, context.stamp_shape)
    return {**context.sizes, **run_sizes(name, arrays), "stage": len(STAGE_NAMES)}


def create_run_store(context: RunContext) -> None:
    """Have an empty run store stand at the output path, unless one stands there already.

    It is made beside its place and moved there in one step, so it is whole or absent.

    Raises
    ------
    StoreError
        Something else lies at the path.
    """
    run = context.run
    if (run / "zarr.json").exists():
        return
    if run.exists() and any(run.iterdir()):
        msg = f"{run} holds something that is not a psfscale store; choose another output"
        raise StoreError(msg)
    run.parent.mkdir(parents=True, exist_ok=True)
    new = run.with_name(f".{run.name}.{os.getpid()}.new")
    shutil.rmtree(new, ignore_errors=True)
    specs, sizes = run_store_specs(context), run_store_sizes(context)
    create_store(new, specs, sizes=sizes, attributes=context.attributes())
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
    run, specs, sizes = context.run, run_store_specs(context), run_store_sizes(context)
    survey = open_root(context.config.survey)
    content = [str(digest) for digest in values_of(survey, "exposures/content")]
    if array_of(open_root(run), "exposure").shape[0] < sizes["exposure"]:
        grow(run, sizes["exposure"])
    root = open_root(run, mode="r+")
    _renew(root, run, specs, sizes)
    for name in ("exposure", "ccd"):
        array_of(root, name)[...] = values_of(survey, name)
    array_of(root, "stage")[...] = np.asarray(STAGE_NAMES, dtype=object)
    root.attrs.update({**context.attributes(), "survey_fingerprint": fingerprint(content)})
    consolidate(run)


def _renew(
    root: zarr.Group, run: Path, specs: tuple[ArraySpec, ...], sizes: dict[str, int]
) -> None:
    """Make missing arrays, and anew those of another shape or type."""
    lost = [s for s in specs if s.path not in root or not _fits(root[s.path], s, sizes)]
    for spec in lost:
        if spec.path in root:
            del root[spec.path]
    add_arrays(root, lost, sizes=sizes)
    stages = {spec.stage for spec in lost} & set(STAGE_NAMES)
    if stages:
        for key in read_markers(run):
            if key[0] in stages:
                remove_marker(run, key)


def _fits(array: Any, spec: ArraySpec, sizes: dict[str, int]) -> bool:
    """Whether a stored array is as the specification wants it; the driver's chunks are free."""
    same_cut = spec.owner == "driver" or (
        array.chunks == spec.chunk(sizes) and (array.shards or array.chunks) == spec.shard(sizes)
    )
    return bool(same_cut and array.shape == spec.shape(sizes))
