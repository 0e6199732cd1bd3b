"""Where the service may listen while it has no API keys: on this machine only."""

from __future__ import annotations

import ipaddress

from eda_service.errors import InputError


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_loopback(host: str) -> str:
    """Return `host` when it is a loopback address.

    Raises:
        InputError: Anybody on the network could reach it.
    """
    if not is_loopback(host):
        raise InputError(
            f"there are no API keys, so the service listens on loopback only and not on {host[:64]!r}; use 127.0.0.1, "
            "or make a key with `eda keys create`",
            param="host",
        )
    return host
