"""From a cluster profile to a cluster and a client of it."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from typing import Any

from distributed import Client, LocalCluster
from distributed.security import Security

from psfscale.errors import ConfigError
from psfscale.pipeline.workers.profiles import (
    AddressProfile,
    ClusterProfile,
    LocalProfile,
    SchedulerFileProfile,
    SlurmProfile,
)

CLOSE_WITHIN = 10.0
"""Seconds in which a cluster closes; after that its processes are left to notice."""


def make_cluster(profile: ClusterProfile, stack: contextlib.ExitStack) -> Any:
    """The cluster of a profile that has one to start; None where one runs already."""
    if isinstance(profile, LocalProfile):
        cluster = LocalCluster(
            n_workers=profile.workers or os.cpu_count(),
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=profile.memory_per_worker,
            local_directory=None if profile.scratch is None else str(profile.scratch),
            silence_logs=logging.CRITICAL,
            resources=profile.resources or None,
        )
        stack.callback(_close, cluster)
        return cluster
    if isinstance(profile, SlurmProfile):
        cluster = _slurm_cluster(profile)
        stack.callback(_close, cluster)
        return cluster
    return None


def _slurm_cluster(profile: SlurmProfile) -> Any:
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        msg = "a slurm profile needs dask-jobqueue: pip install 'psfscale[slurm]'"
        raise ConfigError(msg) from error
    return SLURMCluster(n_workers=profile.workers, **slurm_options(profile))


def slurm_options(profile: SlurmProfile) -> dict[str, Any]:
    """What dask-jobqueue is told of a profile."""
    amounts = ",".join(f"{name}={n:g}" for name, n in profile.resources.items())
    declared = ["--resources", amounts] if amounts else []
    return {
        "queue": profile.partition,
        "account": profile.account,
        "cores": 1,
        "processes": 1,
        "memory": profile.memory,
        "walltime": profile.walltime,
        "interface": profile.interface,
        "job_extra_directives": list(profile.directives),
        "job_script_prologue": list(profile.prologue),
        "log_directory": None if profile.log_directory is None else str(profile.log_directory),
        "worker_extra_args": [
            "--lifetime",
            profile.lifetime,
            "--lifetime-stagger",
            "2m",
            *declared,
        ],
        "scheduler_options": {"dashboard_address": "127.0.0.1:0"},
        "security": _security(profile),
    }


def client_of(profile: ClusterProfile, cluster: Any) -> Client:
    """A client of the profile's cluster, or of the scheduler that it names."""
    if isinstance(profile, (AddressProfile, SchedulerFileProfile)):
        security = _security(profile)
        if isinstance(profile, AddressProfile):
            return Client(profile.address, security=security, timeout=profile.patience)
        if not profile.path.is_file():
            msg = f"no scheduler file at {profile.path}; start the scheduler first"
            raise ConfigError(msg)
        return Client(scheduler_file=str(profile.path), security=security, timeout=profile.patience)
    return Client(cluster, timeout=profile.patience)


def _security(
    profile: SlurmProfile | AddressProfile | SchedulerFileProfile,
) -> Security | None:
    """TLS where the profile names certificates: without, whoever reaches the port runs code."""
    if profile.tls_ca is None:
        return None
    options = {"tls_ca_file": str(profile.tls_ca), "require_encryption": True}
    for role in ("client", "scheduler", "worker"):
        options[f"tls_{role}_cert"] = str(profile.tls_cert)
        options[f"tls_{role}_key"] = str(profile.tls_key)
    return Security(**options)


def _close(cluster: Any) -> None:
    with hushed(), contextlib.suppress(OSError, TimeoutError):
        cluster.close(timeout=CLOSE_WITHIN)


@contextlib.contextmanager
def hushed() -> Any:
    """Without the complaints of a cluster whose processes have been killed."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
