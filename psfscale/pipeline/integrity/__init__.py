"""Check what a store holds against its checksums, and repair what can be."""
