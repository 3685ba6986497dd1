"""Other users of the machine, and what they reach of a run's processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import psutil
import pytest
import toy

from psfscale.pipeline.workers.cluster import DaskExecutor
from psfscale.pipeline.workers.profiles import LocalProfile

STRANGER = """
import asyncio, json, os, sys
from distributed import Client
from distributed.core import rpc
from distributed.security import Security

asyncio.run(asyncio.sleep(0))
os.setgroups([]), os.setgid(65534), os.setuid(65534)

async def opens(address, security):
    arguments = security.get_connection_args("client") if security else {}
    try:
        async with asyncio.timeout(5), rpc(address, connection_args=arguments) as there:
            await there.identity()
    except (OSError, TimeoutError, ValueError):
        return False
    return True

async def main(ports):
    own = Security.temporary()
    ways = [("tcp", None), ("tls", own)]
    return [[p, way] for p in ports for way, s in ways if await opens(f"{way}://127.0.0.1:{p}", s)]

print(json.dumps(asyncio.run(main(json.loads(sys.argv[1])))))
"""


def listeners() -> dict[int, str]:
    """Ports on which this process and its children listen, and their addresses."""
    here = psutil.Process()
    found = {}
    for process in (here, *here.children(recursive=True)):
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                found[connection.laddr.port] = connection.laddr.ip
    return found


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user__reaches_no_process_of_a_local_run() -> None:
    before = set(listeners())
    executor = DaskExecutor(LocalProfile(workers=1))
    try:
        ports = {port: ip for port, ip in listeners().items() if port not in before}
        assert len(ports) >= 3, "scheduler, nanny and worker listen"
        assert set(ports.values()) == {"127.0.0.1"}
        command = [sys.executable, "-c", STRANGER, json.dumps(sorted(ports))]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout) == []
    finally:
        executor.close(kill=False)


def test_stranger__finds_an_open_door() -> None:
    """The same stranger reaches a scheduler without TLS: the test above can fail."""
    pytest.importorskip("distributed")
    from distributed import LocalCluster

    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    with LocalCluster(
        n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0", processes=True
    ) as cluster:
        port = int(cluster.scheduler_address.rpartition(":")[2])
        command = [sys.executable, "-c", STRANGER, json.dumps([port])]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        assert json.loads(done.stdout) == [[port, "tcp"]]


@pytest.mark.slow
def test_run_over_tls__gives_what_a_serial_run_gives(survey) -> None:
    from psfscale.pipeline import run

    config = toy.make_config(survey)
    assert run(config, cluster=LocalProfile(workers=2), observers=[]).exit_code == 0
    quiet = toy.make_config(survey, output=survey / "quiet.zarr")
    run(quiet, serial=True, observers=[])
    toy.require_same_arrays(config.output, quiet.output)
