"""Worker processes on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING, Any

import psutil
from distributed import LocalCluster, Nanny, Status

from psfscale.errors import RunError
from psfscale.mainguard import missing_guard
from psfscale.pipeline.workers.security import security_of
from psfscale.processes import deaf_children

if TYPE_CHECKING:
    from collections.abc import Collection

    from psfscale.pipeline.workers.profiles import LocalProfile

NO_DASHBOARD = "127.0.0.1:0"
"""Dask opens an HTTP port in every process; here on loopback, without a page behind it."""
LEAST_TRIES = 3
"""Worker processes that must end as they start before no more are started."""


class LocalWorkers:
    """A scheduler in this process, and the worker processes that it has.

    Workers start side by side: one that dies as it starts is replaced, and one that hangs keeps
    nobody waiting.

    Parameters
    ----------
    profile : how many, and what each may use
    """

    def __init__(self, profile: LocalProfile) -> None:
        self.n_wanted = profile.workers or os.cpu_count() or 1
        self._nannies: list[Nanny] = []
        self._n_connected = self._n_failed = 0
        with deaf_children():
            self.cluster = LocalCluster(
                n_workers=0,
                threads_per_worker=1,
                processes=True,
                worker_class=self._nanny,
                protocol="tls://",
                security=security_of(profile),
                host="127.0.0.1",
                dashboard_address=NO_DASHBOARD,
                worker_dashboard_address=NO_DASHBOARD,
                memory_limit=profile.memory_per_worker,
                local_directory=None if profile.scratch is None else str(profile.scratch),
                silence_logs=logging.CRITICAL,
                resources=profile.resources or None,
                death_timeout=profile.patience,
            )

    def fill(self, connected: Collection[Any]) -> None:
        """Start workers that are missing, in place of those that have ended for good.

        Parameters
        ----------
        connected : names of the workers that the scheduler lists

        Raises
        ------
        RunError
            All worker processes end as they start.
        """
        self._n_connected = max(self._n_connected, len(connected))
        for name, nanny in dict(self.cluster.workers).items():
            if _has_ended(nanny) and name in self.cluster.worker_spec:
                self.cluster.worker_spec.pop(name)
                self._n_failed += 1
        if not self._n_connected and self._n_failed >= max(LEAST_TRIES, self.n_wanted):
            msg = f"all of {self._n_failed} worker processes ended as they started{missing_guard()}"
            raise RunError(msg)
        self.cluster.scale(self.n_wanted)

    def kill(self, *, starting: bool = False) -> None:
        """End the worker processes at once.

        Parameters
        ----------
        starting : those alone that are starting, for which Dask waits before it closes
        """
        for nanny in self._nannies:
            pid = nanny.pid  # none where the process has ended
            if pid and (not starting or nanny.status == Status.init):
                with contextlib.suppress(psutil.Error):
                    psutil.Process(pid).kill()

    def has_processes(self) -> bool:
        """Whether a worker process lives; the scheduler may list one that does not."""
        return any(nanny.is_alive() for nanny in list(self._nannies))

    def _nanny(self, *arguments: Any, **options: Any) -> Nanny:
        nanny = Nanny(*arguments, **options)
        self._nannies.append(nanny)
        return nanny


def _has_ended(nanny: Nanny) -> bool:
    """Whether a nanny is not going to start its worker again."""
    ended = (Status.failed, Status.closed, Status.closing, Status.closing_gracefully)
    return nanny.status in ended and not nanny.is_alive()
