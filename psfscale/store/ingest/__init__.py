"""Ingest: exposures, catalogues and stacks become a survey store."""

from psfscale.store.ingest.events import CcdCount, FileRefusal, IngestEvent, IngestSummary
from psfscale.store.ingest.run import ingest
from psfscale.store.refusal import Refusal

__all__ = ["CcdCount", "FileRefusal", "IngestEvent", "IngestSummary", "Refusal", "ingest"]
