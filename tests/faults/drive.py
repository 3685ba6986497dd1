"""A driver to be disturbed: ``python drive.py FOLDER WORKERS CHANGES``.

0 workers: serial; ``profile`` for workers: the cluster of FOLDER/profile.yaml.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import toy

from psfscale.pipeline import load_profile, run
from psfscale.pipeline.workers.profiles import LocalProfile

if __name__ == "__main__":
    folder, given, changes = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    if given == "profile":
        cluster = load_profile(folder / "profile.yaml")
    else:
        cluster = LocalProfile(workers=int(given)) if int(given) else None
    summary = run(
        toy.make_config(folder, **changes),
        cluster=cluster,
        serial=cluster is None,
        observers=[],
    )
    sys.stdout.write(f"{summary}\n")
    sys.exit(summary.exit_code)
