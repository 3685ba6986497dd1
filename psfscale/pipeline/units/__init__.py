"""The work of a worker process: read an exposure, run a stage on its CCDs, write the products."""
