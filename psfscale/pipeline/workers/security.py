"""TLS keys of clusters: whoever reaches a Dask process can run code as its user."""

from __future__ import annotations

import ipaddress
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from distributed import Security

from psfscale.errors import ConfigError

if TYPE_CHECKING:
    import contextlib

    from psfscale.pipeline.workers.profiles import (
        AddressProfile,
        ClusterProfile,
        SchedulerFileProfile,
    )

_ENCRYPTED = ("tls", "wss")


def security_of(profile: ClusterProfile) -> Security | None:
    """Return the TLS keys of a profile.

    Clusters that psfscale starts take keys made for them alone, or the profile's certificates.
    None for a scheduler that runs already, without certificates in the profile.
    """
    certificate = getattr(profile, "tls_ca", None)
    if certificate is None:
        return None if profile.kind in ("address", "scheduler-file") else Security.temporary()
    options = {"tls_ca_file": str(certificate), "require_encryption": True}
    for role in ("client", "scheduler", "worker"):
        options[f"tls_{role}_cert"] = str(getattr(profile, "tls_cert", None))
        options[f"tls_{role}_key"] = str(getattr(profile, "tls_key", None))
    return Security(**options)


def keys_in_files(folder: Path, stack: contextlib.ExitStack) -> Security:
    """Make keys for one cluster in files that only this user may read.

    Parameters
    ----------
    folder : seen by all nodes; made for this user alone where it does not exist
    stack : removes the files as it closes
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    worker = Security.temporary().get_tls_config_for_role("worker")
    paths = {name: _write_private(folder, content, stack) for name, content in worker.items()}
    options = {"tls_ca_file": paths["ca_file"], "require_encryption": True}
    for role in ("client", "scheduler", "worker"):
        options |= {f"tls_{role}_cert": paths["cert"], f"tls_{role}_key": paths["key"]}
    return Security(**options)


def _write_private(folder: Path, content: str | None, stack: contextlib.ExitStack) -> str | None:
    if content is None:
        return None
    descriptor, name = tempfile.mkstemp(suffix=".pem", dir=folder)  # of mode 0600
    stack.callback(Path(name).unlink, missing_ok=True)
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
    return name


def require_safe_address(address: str, profile: AddressProfile | SchedulerFileProfile) -> None:
    """Refuse a scheduler on a network that speaks without TLS.

    Raises
    ------
    ConfigError
        The address is neither encrypted nor on loopback, and the profile does not allow that.
    """
    parts = urlsplit(address)
    if parts.scheme in _ENCRYPTED or _is_loopback(parts.hostname or ""):
        return
    if profile.anyone_on_the_network_may_run_code_as_me:
        return
    msg = (
        f"the scheduler at {address} speaks without TLS: anyone on its network can run code as "
        "you. Start it with certificates (deploy/README.md, Security), or accept that with "
        "anyone_on_the_network_may_run_code_as_me: true in the profile"
    )
    raise ConfigError(msg)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
