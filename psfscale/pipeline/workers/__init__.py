"""Where units run: cluster profiles, Dask, this process, and what is watched there."""
