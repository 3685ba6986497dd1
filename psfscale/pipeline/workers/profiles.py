"""Cluster profiles: where a run's workers come from, as the files in ``deploy/`` say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from psfscale.errors import ConfigError
from psfscale.yamlfile import read_yaml

KEYS = Path(".psfscale", "keys")
"""Folder in a run store for the keys of its jobs on other nodes; only its user may enter it."""


class _Profile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    units_per_thread: int = Field(
        default=3, ge=1, description="units handed out at a time for each worker thread"
    )
    patience: float = Field(
        default=120, gt=0, description="longest the run waits without a single worker [s]"
    )
    restarts: int = Field(
        default=3, ge=0, description="new clusters in a row, without progress, before giving up"
    )


class LocalProfile(_Profile):
    """Processes on this machine, one thread each; everything listens on loopback."""

    kind: Literal["local"] = "local"
    workers: int | None = Field(default=None, ge=1, description="processes; one a core if unset")
    memory_per_worker: str = Field(
        default="auto", description="limit at which a worker is killed, such as 4GB; auto: a share"
    )
    scratch: Path | None = Field(default=None, description="folder for Dask's own files")
    resources: dict[str, float] = Field(
        default_factory=dict, description="that each worker has to itself, such as {GPU: 1}"
    )


class _Networked(_Profile):
    tls_ca: Path | None = Field(default=None, description="certificate of the authority")
    tls_cert: Path | None = Field(
        default=None, description="certificate of client, scheduler and workers"
    )
    tls_key: Path | None = Field(default=None, description="its key")

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        given = [value is not None for value in (self.tls_ca, self.tls_cert, self.tls_key)]
        if any(given) and not all(given):
            msg = "tls_ca, tls_cert and tls_key go together: give all or none"
            raise ValueError(msg)
        return self


class SlurmProfile(_Networked):
    """Jobs of one worker each, submitted through dask-jobqueue (extra ``slurm``)."""

    kind: Literal["slurm"]
    workers: int = Field(ge=1, description="jobs, each one worker of one thread")
    partition: str | None = Field(default=None, description="partition to submit to")
    account: str | None = Field(default=None, description="account to charge")
    memory: str = Field(default="4GB", description="of a job")
    walltime: str = Field(default="04:00:00", description="of a job")
    lifetime: str = Field(
        default="220m", description="when a worker leaves; shorter than the walltime"
    )
    interface: str | None = Field(default=None, description="network interface, such as ib0")
    directives: tuple[str, ...] = Field(default=("--requeue",), description="more for #SBATCH")
    prologue: tuple[str, ...] = Field(default=(), description="shell lines before the worker")
    resources: dict[str, float] = Field(
        default_factory=dict, description="that each job has to itself, such as {GPU: 1}"
    )
    log_directory: str | None = Field(
        default=None, description="folder for the jobs' output, from the working directory"
    )
    patience: float = Field(default=3600, gt=0, description="longest wait for a first job [s]")


class _Running(_Networked):
    anyone_on_the_network_may_run_code_as_me: bool = Field(
        default=False, description="true: join a scheduler without TLS beyond this machine"
    )


class AddressProfile(_Running):
    """A scheduler that runs already, found by its address."""

    kind: Literal["address"]
    address: str = Field(
        pattern=r"^(tcp|tls|ucx|ws|wss)://.+", description="such as tcp://10.0.0.1:8786"
    )


class SchedulerFileProfile(_Running):
    """A scheduler that runs already, found by the file it wrote."""

    kind: Literal["scheduler-file"]
    path: Path = Field(description="file given to dask scheduler --scheduler-file")


ClusterProfile = LocalProfile | SlurmProfile | AddressProfile | SchedulerFileProfile


class _ProfileFile(RootModel[Annotated[ClusterProfile, Field(discriminator="kind")]]):
    """A profile, told apart by its kind."""


def load_profile(name_or_path: str | Path, *, workers: int | None = None) -> ClusterProfile:
    """A cluster profile.

    Parameters
    ----------
    name_or_path : a YAML file, or the name of one in ``deploy/`` of the working directory or
        of the source tree; ``local`` needs no file
    workers : overrides the profile's number of workers

    Raises
    ------
    ConfigError
        There is no such profile, a key is unknown or wrong, or `workers` is given for a
        cluster that runs already.
    """
    profile = _read(str(name_or_path))
    if workers is None:
        return profile
    if not isinstance(profile, (LocalProfile, SlurmProfile)):
        msg = f"a cluster of kind {profile.kind!r} brings its own workers; leave out --workers"
        raise ConfigError(msg)
    if workers < 1:
        msg = f"a run needs at least one worker, got {workers}"
        raise ConfigError(msg)
    return profile.model_copy(update={"workers": workers})


def _read(name: str) -> ClusterProfile:
    if Path(name).suffix in (".yaml", ".yml"):
        return _relative(read_yaml(Path(name), _ProfileFile).root, Path(name).resolve().parent)
    folders = (Path("deploy"), Path(__file__).parents[3] / "deploy")
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return _read(str(folder / f"{name}.yaml"))
    if name == "local":
        return LocalProfile()
    known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    msg = f"no cluster profile {name!r}: give a YAML file or one of {known or ['local']}"
    raise ConfigError(msg)


def _relative(profile: ClusterProfile, folder: Path) -> ClusterProfile:
    """Paths of a profile are relative to its folder."""
    paths: dict[str, Any] = {
        key: folder / value for key, value in profile if isinstance(value, Path)
    }
    return profile.model_copy(update=paths)
