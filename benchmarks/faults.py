"""The campaign of faults: ``python benchmarks/faults.py [--row ROW ...] [--scratch FOLDER]``.

Rows: ``kill`` and ``full`` disturb every command at changes of the disk, ``inputs`` mangles what
users give, ``files`` damages every file of a finished run and of its survey. CI runs a part of each
(``tests/faults/test_campaign.py``, ``test_damaged_files.py``), and kills processes of clusters at
random (``test_random_kills.py``, ``test_terminals.py``).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

FAULTS = Path(__file__).resolve().parents[1] / "tests/faults"
sys.path[:0] = [str(FAULTS), str(FAULTS.parent / "pipeline")]

import campaign  # noqa: E402
import mean_star  # noqa: E402

from psfscale import models  # noqa: E402

ROWS = ("kill", "full", "inputs")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", action="append", choices=ROWS, help="all if not given")
    parser.add_argument(
        "--scratch", type=Path, help="folder for the trials; a temporary one if not"
    )
    parser.add_argument("--seed", type=int, default=20261201)
    parser.add_argument(
        "--each", type=int, default=25, help="changes at which a command is disturbed"
    )
    parser.add_argument("--inputs", type=int, default=300, help="mangled inputs")
    options = parser.parse_args()
    models.MODELS["rca"] = "mean_star:MeanStar"  # what a model does is no matter here
    models.SETTINGS["rca"] = mean_star.MeanStarSettings
    wrong = 0
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        for row in options.row or ROWS:
            folder = Path(scratch) / row
            if row == "inputs":
                tally = campaign.mangle_inputs(folder, options.inputs, options.seed)
            else:
                tally = campaign.disturb_all(folder, options.each, row, options.seed)
            print(f"{row}: {tally}", flush=True)
            wrong += len(tally.wrong)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
