"""The certificates of deploy/README.md, made by its own commands and used on loopback."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy
from distributed import Client
from distributed.security import Security

from psfscale.errors import RunError
from psfscale.pipeline import run
from psfscale.pipeline.workers.profiles import AddressProfile

README = Path(__file__).parents[2] / "deploy/README.md"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl"),
]


def make_certificates(folder: Path) -> Path:
    """Run the README's block of openssl in `folder`."""
    blocks = re.findall(r"```sh\n(.*?)```", README.read_text(), flags=re.S)
    (commands,) = [block for block in blocks if "openssl req" in block]
    subprocess.run(["bash", "-ec", commands], cwd=folder, check=True, capture_output=True)
    return folder / "tls"


@pytest.fixture
def secured(survey):
    """A scheduler and a worker with TLS; returns its address and the folder of certificates."""
    tls = make_certificates(survey)
    options = ["--tls-ca-file", "ca.pem", "--tls-cert", "cert.pem", "--tls-key", "key.pem"]
    file = survey / "scheduler.json"
    loopback = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0", "--port", "0"]
    dask, joined = [sys.executable, "-m", "dask"], ["--scheduler-file", str(file), *options]
    worker = ["--nthreads", "1", "--no-dashboard", "--local-directory", str(survey)]
    with (survey / "log").open("w") as log:
        start = {"cwd": tls, "stderr": log}
        started = [
            subprocess.Popen([*dask, "scheduler", "--protocol", "tls", *loopback, *joined], **start)
        ]
        while not (file.exists() and file.read_text()):
            time.sleep(0.05)
        started.append(subprocess.Popen([*dask, "worker", *worker, *joined], **start))
    (address,) = re.findall(r"tls://127\.0\.0\.1:\d+", file.read_text())[:1]
    yield address, tls
    for process in reversed(started):
        process.terminate()
        process.wait(timeout=30)


def profile(address: str, tls: Path | None, **rest) -> AddressProfile:
    names = {"tls_ca": "ca.pem", "tls_cert": "cert.pem", "tls_key": "key.pem"}
    files = {key: tls / name for key, name in names.items()} if tls else {}
    return AddressProfile(kind="address", address=address, **files, **rest)


def test_certificates_of_the_readme__carry_a_run_and_keep_others_out(survey, secured) -> None:
    address, tls = secured
    assert (tls / "key.pem").stat().st_mode & 0o077 == 0, "a key that others may read"
    config = toy.make_config(survey)
    assert run(config, cluster=profile(address, tls), observers=[]).exit_code == 0
    quiet = toy.make_config(survey, output=survey / "quiet.zarr")
    run(quiet, serial=True, observers=[])
    toy.require_same_arrays(config.output, quiet.output)
    plain = profile(address.replace("tls://", "tcp://"), None, patience=2.0)
    with pytest.raises(RunError, match="no worker came within 2 s"):
        run(toy.make_config(survey, output=survey / "no.zarr"), cluster=plain, observers=[])
    (survey / "other").mkdir()
    other = make_certificates(survey / "other")
    assert not asyncio.run(connects(address, other))
    assert asyncio.run(connects(address, tls))


async def connects(address: str, tls: Path) -> bool:
    """Whether these certificates open the scheduler's door."""
    names = {"tls_ca_file": "ca.pem", "tls_client_cert": "cert.pem", "tls_client_key": "key.pem"}
    files = {key: str(tls / name) for key, name in names.items()}
    security = Security(require_encryption=True, **files)
    try:
        async with Client(address, security=security, timeout=2, asynchronous=True):
            return True
    except OSError:
        return False
