"""Worker processes that fail as they start, imported by each of them.

``PSFSCALE_TEST_START=HOW:FILE`` has the first worker process that comes by ``die`` or ``hang``; all
of them without a file.
"""

import os
import sys
import time


def _fail(how: str, file: str) -> None:
    try:
        if file:
            os.close(os.open(file, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    time.sleep(600 if how == "hang" else 0)
    os._exit(1)


if "PSFSCALE_TEST_START" in os.environ and "--multiprocessing-fork" in sys.orig_argv:
    _fail(*os.environ["PSFSCALE_TEST_START"].split(":", 1))
