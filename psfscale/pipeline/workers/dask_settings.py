"""Settings of Dask for long units whose deaths the driver counts itself."""

from __future__ import annotations

from typing import Any

SETTINGS: dict[str, Any] = {
    "distributed.scheduler.allowed-failures": 0,  # the driver counts deaths, unit by unit
    "distributed.scheduler.worker-saturation": 1.0,  # what waits, waits in the scheduler
    "distributed.scheduler.work-stealing": False,  # units take minutes
    "distributed.scheduler.worker-ttl": "30 minutes",  # for a fit that holds the interpreter
    "distributed.comm.timeouts.connect": "60s",
    "distributed.comm.timeouts.tcp": "120s",
    "distributed.comm.retry.count": 3,
    # The profiler calls sys._current_frames, which deadlocks before Python 3.11.9 (gh-106883).
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.target": False,  # nothing worth spilling is kept
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.worker.memory.monitor-interval": "250ms",  # 0.15 % of a core a worker at 100
    "distributed.admin.low-level-log-length": 100,  # these logs grow with the number of units
    "distributed.admin.log-length": 100,
    # Pages of Dask's HTTP servers: whoever is on the machine could read them.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    # Looks of every process at itself, which take 2 % of a core each by default.
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "5s",
}


def exported() -> list[str]:
    """Return the settings as lines of a job script.

    Dask hands its settings to workers that it starts itself, not to those in jobs. It reads
    ``DASK_A__B_C`` as ``a.b-c``.
    """
    names = {key: key.upper().replace(".", "__").replace("-", "_") for key in SETTINGS}
    return [f"export DASK_{names[key]}='{value}'" for key, value in SETTINGS.items()]
