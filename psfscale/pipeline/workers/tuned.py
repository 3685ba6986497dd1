"""What a worker process needs, whatever started it."""

from __future__ import annotations

import contextlib
import ctypes

from distributed import Worker, WorkerPlugin

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3); the largest mmap threshold that glibc takes is 32 MiB."""


class Tuned(WorkerPlugin):  # type: ignore[misc]
    """What a worker process needs, whatever started it: one thread, and memory that it keeps.

    One thread, so that results do not depend on the machine. Dask tells the C library to give
    memory back beyond 64 kB; a fit then spends more time in the kernel than in arithmetic
    (24 against 9 CPU s, measured), so that limit is lifted to 1 GiB.
    """

    name = "psfscale-tuned"

    def setup(self, worker: Worker) -> None:  # noqa: ARG002 (Dask calls it so)
        """Limit the thread pools of this process and let it keep freed memory."""
        import torch

        torch.set_num_threads(1)
        with contextlib.suppress(AttributeError):  # a C library without glibc's mallopt
            library = ctypes.CDLL(None)
            library.mallopt(M_TRIM_THRESHOLD, 2**30)
            library.mallopt(M_MMAP_THRESHOLD, 2**25)
