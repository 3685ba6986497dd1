"""Ingest: exposures, catalogues and stacks become a survey store."""

from psfscale.ingest.blocks import BLOCK_SIZE, ingest_blocks
from psfscale.ingest.events import CcdCount, FileRefusal, IngestEvent, IngestSummary
from psfscale.ingest.run import ingest
from psfscale.store.refusal import Refusal

__all__ = [
    "BLOCK_SIZE",
    "CcdCount",
    "FileRefusal",
    "IngestEvent",
    "IngestSummary",
    "Refusal",
    "ingest",
    "ingest_blocks",
]
