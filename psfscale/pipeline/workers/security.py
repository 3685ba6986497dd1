"""TLS keys of clusters: whoever reaches a Dask process can run code as its user."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from distributed import Security

from psfscale.errors import ConfigError

if TYPE_CHECKING:
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
