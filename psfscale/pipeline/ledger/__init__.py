"""What happened in a run: markers, start journal, lease, and the table compacted from them.

Everything lies in ``<run.zarr>/.psfscale``. A unit writes its arrays, then its **marker**;
the marker is the truth. The **journal** tells which units were begun and which killed their
process. The **lease** keeps a second driver out. The **table** (``ledger.parquet`` and the
array ``ccds/state``) is a cache of the markers that the driver can rebuild at any time.
"""
