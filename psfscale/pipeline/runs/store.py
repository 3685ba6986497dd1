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
from psfscale.pipeline.ledger.marker import read_markers, remove_marker
from psfscale.pipeline.ledger.table import Books, read_known, stages_in
from psfscale.pipeline.runs.belonging import CONTENT, difference, require_own_survey
from psfscale.pipeline.runs.context import context_attributes, require_run
from psfscale.pipeline.stages.registry import STAGE_NAMES, stages_of
from psfscale.store.packs import Packing
from psfscale.store.renewal import finish_renewal, renew
from psfscale.store.saved_models import run_sizes
from psfscale.store.schema import RUN_SCHEMA, ArraySpec
from psfscale.store.stores import (
    EXPOSURE,
    array_of,
    consolidate,
    create_store,
    grow,
    n_exposures_of,
    open_root,
    set_attributes,
    values_of,
)
from psfscale.store.versions import require_current

if TYPE_CHECKING:
    from collections.abc import Sequence
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
    create_store(new, packing.stored, sizes=packing.sizes, attributes=context_attributes(context))
    root = open_root(new, mode="r+")
    for path, names in _names(packing).items():
        array_of(root, path)[...] = names
    try:
        new.rename(run)
    except OSError:
        shutil.rmtree(new)
        if not (run / "zarr.json").exists():  # else another driver was faster
            raise


def _names(packing: Packing) -> dict[str, np.ndarray]:
    """Return the names along the axes of stages and of packs, by the path of their array."""
    names = {"stage": STAGE_NAMES, **packing.labels}
    return {path: np.asarray(labels, dtype=object) for path, labels in names.items()}


def prepare_run_store(context: RunContext, *, overwrite: bool = False) -> None:
    """Bring the run store to the length of the survey and to the shapes wanted now.

    Arrays that are missing, or whose shape the settings have changed, are made anew; before that
    the units that wrote them are struck out. Nothing is shortened. Only the driver that holds
    the lease may call this; killed at any moment, the same call goes on.

    Parameters
    ----------
    context : of the run
    overwrite : whether finished products may be deleted: those of other shapes, and those of
        another survey

    Raises
    ------
    StoreError
        The store is the run of another survey, or finished products have other shapes than the
        settings give, and `overwrite` is False.
    """
    run, packing = context.run, run_packing(context)
    finish_renewal(run)
    survey = open_root(context.config.survey)
    own = not overwrite or not difference(open_root(run), survey)
    if own:
        require_own_survey(run, context.config.survey)
        grow(run, packing.sizes["exposure"])
    _renew(context, packing, everything=not own, overwrite=overwrite)
    content = [str(digest) for digest in values_of(survey, "exposures/content")]
    root = open_root(run, mode="r+")
    for name in ("exposure", "ccd"):
        array_of(root, name)[...] = values_of(survey, name)
    array_of(root, CONTENT)[...] = np.asarray(content, dtype=object)
    states = enumeration_attributes(dict(UnitState.__members__))
    array_of(root, "ccds/state").attrs.update(states)  # a store of before has fewer
    set_attributes(
        root, {**context_attributes(context), "survey_fingerprint": fingerprint(content)}
    )
    consolidate(run)


def _renew(context: RunContext, packing: Packing, *, everything: bool, overwrite: bool) -> None:
    """Make missing arrays, and anew those of another shape, type or order of entries."""
    run, root = context.run, open_root(context.run)
    missing = [spec for spec in packing.stored if spec.path not in root]
    unfit = [s for s in packing.stored if s not in missing and not _fits(root, s, packing)]
    if everything:
        unfit = [spec for spec in packing.stored if spec not in missing]
    elif not overwrite:
        _require_unfinished(run, [s for s in unfit if not _has_other_entries(root, s, packing)])
    changed = [*missing, *unfit]
    stages = {spec.stage for spec in changed} & set(STAGE_NAMES)
    _strike_out(run, root, set(stages_in(root)) if everything else stages)
    values = {} if everything else _of_known_stages(root, unfit)
    values |= _names(packing)
    renewed = {path: values[path] for path in (s.path for s in changed) if path in values}
    renew(run, changed, sizes=packing.sizes, values=renewed)


def _require_unfinished(run: Path, unfit: Sequence[ArraySpec]) -> None:
    """Raise where finished units wrote arrays that are to be deleted."""
    stages = sorted({spec.stage for spec in unfit} & set(STAGE_NAMES))
    known = read_known(run, stages)
    done = {stage: int((known.fingerprints[:, k] > 0).sum()) for k, stage in enumerate(stages)}
    if any(done.values()):
        told = ", ".join(f"{n} of {stage}" for stage, n in done.items() if n)
        paths = ", ".join(spec.path for spec in unfit if done.get(spec.stage))
        msg = (
            f"{run} holds finished units ({told}) whose arrays ({paths}) have other shapes than "
            "these settings give: give --overwrite to delete them and make them anew, or choose "
            "another output"
        )
        raise StoreError(msg)


def _strike_out(run: Path, root: zarr.Group, stages: set[str]) -> None:
    """Strike all units of some stages out of the books, before their arrays change."""
    if not stages:
        return
    of_markers = {key for key in read_markers(run) if key[0] in stages}
    if "units/fingerprint" not in root or "ccds/state" not in root:
        for key in of_markers:
            remove_marker(run, key)
        return
    of_books = {(name, e) for name in stages for e in range(n_exposures_of(root))}
    Books(run).strike_out(sorted(of_markers | of_books))


def _of_known_stages(root: zarr.Group, unfit: Sequence[ArraySpec]) -> dict[str, np.ndarray]:
    """Values of arrays over stages, for an axis of today's stages."""
    there, found = stages_in(root), {}
    for spec in unfit:
        if "stage" in spec.dims and spec.path != "stage":
            old = values_of(root, spec.path)
            new = np.full((*old.shape[:-1], len(STAGE_NAMES)), spec.fill, old.dtype)
            for k, name in enumerate(STAGE_NAMES):
                if name in there:
                    new[..., k] = old[..., there.index(name)]
            found[spec.path] = new
    return found


def _fits(root: zarr.Group, spec: ArraySpec, packing: Packing) -> bool:
    """Whether a stored array is as the specification wants it; the driver's chunks are free."""
    array: Any = root[spec.path]
    if "stage" in spec.dims and stages_in(root) != list(STAGE_NAMES):
        return False
    if _has_other_entries(root, spec, packing):
        return False
    sizes, start = packing.sizes, int(spec.dims[:1] == (EXPOSURE,))
    same_cut = spec.owner in ("driver", "ledger") or (
        array.chunks == spec.chunk(sizes) and (array.shards or array.chunks) == spec.shard(sizes)
    )
    return bool(same_cut and array.shape[start:] == spec.shape(sizes)[start:])


def _has_other_entries(root: zarr.Group, spec: ArraySpec, packing: Packing) -> bool:
    """Whether a pack was made by a psfscale that stored other numbers: its stage runs again."""
    return any(
        path not in root or values_of(root, path).tolist() != list(packing.labels[path])
        for path in {f"{spec.group}/{dim}" for dim in spec.dims} & set(packing.labels)
    )
