"""A Slurm site of two nodes on this machine: its own controller, daemons and keys, on loopback."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")
NODES = ("n1", "n2")
CONFIG = """
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=2
ReturnToService=2
MpiDefault=none
KillWait=5
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=8000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=8000
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
CGROUP = """
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
CgroupAutomount=no
ConstrainCores=no
ConstrainRAMSpace=no
"""


def missing() -> str:
    """Why no site can be made here; empty where one can."""
    absent = [name for name in PROGRAMS if _program(name) is None]
    if absent:
        return f"needs {', '.join(absent)} (apt-get install slurm-wlm munge)"
    return "" if os.getuid() == 0 else "only root can start Slurm's daemons"


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _start(name: str, *arguments: str, env: dict[str, str]) -> None:
    """Run a daemon, which goes into the background once it has started."""
    program = _program(name)
    assert program is not None
    quiet = subprocess.DEVNULL
    subprocess.run([program, *arguments], env=env, check=True, stdout=quiet, stderr=quiet)


def _free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        open_sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for one in open_sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in open_sockets]


@contextlib.contextmanager
def slurm_site(folder: Path) -> Iterator[Path]:
    """Start a site in `folder`; its configuration, for ``SLURM_CONF``. It ends with the block."""
    folder.mkdir(parents=True)
    config = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    config.write_text(CONFIG.format(host=host, folder=folder, ports=_free_ports(3)))
    (folder / "cgroup.conf").write_text(CGROUP)
    (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
    (folder / "munge.key").chmod(0o400)
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    env = {**os.environ, "SLURM_CONF": str(config)}
    names = ("key.key", "socket.socket", "pid-file.pid", "log-file.log", "seed-file.seed")
    pairs = (name.partition(".") for name in names)
    munge = [f"--{option}={folder}/munge.{end}" for option, _, end in (p for p in pairs)]
    munge[0] = f"--key-file={folder}/munge.key"
    try:
        _start("munged", "--force", *munge, env=env)
        _start("slurmctld", "-c", env=env)
        for node in NODES:
            _start("slurmd", "-N", node, env=env)
        _wait_for_nodes(env, folder)
        yield config
    finally:
        _stop(folder, env)


def _wait_for_nodes(env: dict[str, str], folder: Path) -> None:
    end = time.monotonic() + 60
    command = ["sinfo", "--noheader", "--Node", "--format=%t"]
    while time.monotonic() < end:
        said = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if said.stdout.split() == ["idle"] * len(NODES):
            return
        time.sleep(0.2)
    logs = "\n".join(p.read_text()[-1500:] for p in folder.glob("*.log"))
    msg = f"the nodes did not become idle: {said.stdout} {said.stderr}\n{logs}"
    raise RuntimeError(msg)


def _stop(folder: Path, env: dict[str, str]) -> None:
    with contextlib.suppress(OSError):
        quiet = subprocess.DEVNULL
        command = ["scancel", "--user=root"]
        subprocess.run(command, env=env, check=False, stdout=quiet, stderr=quiet, timeout=20)
    order = ("slurmd-n1", "slurmd-n2", "slurmctld", "munge")
    pids = [int(p.read_text()) for n in order if (p := folder / f"{n}.pid").exists()]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 15)
    end = time.monotonic() + 20
    while time.monotonic() < end and any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.1)
