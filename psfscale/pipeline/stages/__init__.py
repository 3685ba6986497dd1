"""What the units of a run compute: pure functions from one CCD's arrays to one CCD's arrays."""
