"""Stores: schema, layout, ingest."""
