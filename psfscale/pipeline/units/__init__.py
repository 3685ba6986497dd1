"""What a worker process does: read an exposure, run a stage on its CCDs, write the products."""
