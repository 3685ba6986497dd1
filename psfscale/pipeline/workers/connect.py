"""From a cluster profile to a cluster and a client of it."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distributed import Client

from psfscale.errors import ConfigError
from psfscale.pipeline.workers.dask_settings import exported
from psfscale.pipeline.workers.local import NO_DASHBOARD, LocalWorkers
from psfscale.pipeline.workers.profiles import (
    AddressProfile,
    ClusterProfile,
    LocalProfile,
    SchedulerFileProfile,
    SlurmProfile,
)
from psfscale.pipeline.workers.security import keys_in_files, require_safe_address, security_of
from psfscale.pipeline.workers.slurm import SlurmJobs, refusable
from psfscale.processes import deaf_children, kept_handlers

LOGGERS = ("distributed", "distributed.client", "tornado", "tornado.application", "asyncio")
"""Loggers of Dask, and those below them to which it gives a level of their own."""
CLOSE_WITHIN = 10.0
"""Seconds in which a cluster closes; after that its processes are left to notice."""


Supply = LocalWorkers | SlurmJobs
"""Where the workers of a cluster that psfscale starts come from."""


def make_supply(
    profile: ClusterProfile,
    stack: contextlib.ExitStack,
    *,
    private: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Supply | None:
    """Start the cluster of a profile, without workers yet.

    None where the profile names one that runs already.

    Parameters
    ----------
    profile : where the workers come from
    stack : closes the cluster
    private : folder for the keys of jobs on other nodes, readable by this user alone and seen by
        all nodes; the working directory if not given
    say : takes sentences for whoever started the run
    """
    supply: Supply
    if isinstance(profile, LocalProfile):
        supply = LocalWorkers(profile)
    elif isinstance(profile, SlurmProfile):
        cluster = _slurm_cluster(profile, private or Path.cwd(), stack)
        supply = SlurmJobs(profile, cluster, say)
    else:
        return None
    stack.callback(_close, supply.cluster)
    return supply


def _slurm_cluster(profile: SlurmProfile, private: Path, stack: contextlib.ExitStack) -> Any:
    try:
        with kept_handlers():  # dask-jobqueue exits with 0 on SIGINT, by a handler of its own
            from dask_jobqueue import SLURMCluster
            from dask_jobqueue.slurm import SLURMJob
    except ImportError as error:
        msg = "a slurm profile needs dask-jobqueue: pip install 'psfscale[slurm]'"
        raise ConfigError(msg) from error
    own = security_of(profile) if profile.tls_ca else keys_in_files(private, stack)
    with deaf_children():
        return SLURMCluster(
            n_workers=0, job_cls=refusable(SLURMJob), security=own, **slurm_options(profile)
        )


def slurm_options(profile: SlurmProfile) -> dict[str, Any]:
    """Options of dask-jobqueue for a profile, without its keys."""
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
        "job_script_prologue": [*exported(), *profile.prologue],
        "log_directory": profile.log_directory,
        "worker_extra_args": [
            "--lifetime",
            profile.lifetime,
            "--lifetime-stagger",
            "2m",
            "--no-dashboard",
            "--dashboard-address",
            NO_DASHBOARD,
            *declared,
        ],
        "protocol": "tls://",
        "scheduler_options": {"dashboard_address": NO_DASHBOARD},
    }


def client_of(profile: ClusterProfile, supply: Supply | None) -> Client:
    """Return a client of the profile's cluster, or of the scheduler that it names.

    Raises
    ------
    ConfigError
        There is no scheduler file, or the scheduler is on a network and speaks without TLS.
    """
    if isinstance(profile, (AddressProfile, SchedulerFileProfile)):
        security = security_of(profile)
        if isinstance(profile, AddressProfile):
            require_safe_address(profile.address, profile)
            return Client(profile.address, security=security, timeout=profile.patience)
        require_safe_address(_address_in(profile.path), profile)
        return Client(scheduler_file=str(profile.path), security=security, timeout=profile.patience)
    return Client(None if supply is None else supply.cluster, timeout=profile.patience)


def _address_in(path: Path) -> str:
    """Return the scheduler's address from the file that it wrote."""
    try:
        return str(json.loads(path.read_text())["address"])
    except FileNotFoundError as error:
        msg = f"no scheduler file at {path}; start the scheduler first"
        raise ConfigError(msg) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"{path} is not the file of a Dask scheduler ({error}); start the scheduler again"
        raise ConfigError(msg) from error


def _close(cluster: Any) -> None:
    with warnings.catch_warnings(), contextlib.suppress(OSError, TimeoutError):
        warnings.simplefilter("ignore")  # of processes that have been killed
        cluster.close(timeout=CLOSE_WITHIN)


@contextlib.contextmanager
def hushed() -> Any:
    """Without the complaints of Dask: what matters of them, the run says in its own words."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
