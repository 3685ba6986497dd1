"""A driver to be disturbed: ``python drive.py FOLDER WORKERS CHANGES``; 0 workers: serial."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import toy

from psfscale.pipeline import run
from psfscale.pipeline.profiles import LocalProfile

if __name__ == "__main__":
    folder, workers, changes = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    summary = run(
        toy.make_config(folder, **changes),
        cluster=LocalProfile(workers=workers) if workers else None,
        serial=not workers,
        observers=[],
    )
    sys.stdout.write(f"{summary}\n")
    sys.exit(summary.exit_code)
