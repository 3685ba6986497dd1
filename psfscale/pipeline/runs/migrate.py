"""Stores of an earlier schema version made ones of today's, while nobody else writes to them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from psfscale.ingest.pending import alone
from psfscale.pipeline.ledger.lease import Lease
from psfscale.store.index import is_index, read_index, run_stores
from psfscale.store.migration import migrate_store
from psfscale.store.stores import attributes_of, open_root
from psfscale.store.versions import SCHEMA_VERSION, version_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path


def migrate(path: Path) -> list[Path]:
    """Make survey stores, run stores or saved models ones of today's version, in place.

    Nothing is computed again: finished units stay finished. The same call after an interruption
    goes on.

    Parameters
    ----------
    path : of a store, of the index of a survey in blocks, or of the folder of a run in blocks

    Returns
    -------
    list of Path
        those that were of an earlier version

    Raises
    ------
    StoreError
        There is no store, one is of a later version or damaged, or an ingest writes to it.
    HeldError
        A driver holds a run.
    """
    stores = read_index(path) if is_index(path) else run_stores(path)
    earlier = [store for store in stores if version_of(store) != SCHEMA_VERSION]
    for store in earlier:
        with _alone(store):
            migrate_store(store)
    return earlier


def _alone(store: Path) -> AbstractContextManager[object]:
    """Return what keeps other writers out of a store."""
    kind = attributes_of(open_root(store)).get("kind", "survey")
    if kind == "run":
        return Lease(store)
    return nullcontext() if kind == "model" else alone(store)
