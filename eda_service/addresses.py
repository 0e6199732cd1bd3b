"""Network addresses: which are this machine's own, where the service may listen while it has no API keys, and which are
the public Internet's, where a request of a user may make it connect to.
"""

from __future__ import annotations

import ipaddress

from eda_service.errors import InputError

# `is_global` knows the private ranges; these carry or translate to addresses of other networks, or are no single host.
_CARRIERS = tuple(
    ipaddress.ip_network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "192.88.99.0/24")
)


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
        InputError: The address can be reached from the network.
    """
    if not is_loopback(host):
        raise InputError(
            f"there are no API keys, so the service listens on loopback only and not on {host[:64]!r}; use 127.0.0.1, "
            "or make a key with `eda keys create`",
            param="host",
        )
    return host


def is_public(text: str) -> bool:
    """Whether an address is one host of the public Internet.

    Args:
        text: An IPv4 or IPv6 address, with or without a zone.

    Raises:
        ValueError: The text is no address.
    """
    address = ipaddress.ip_address(text.split("%", maxsplit=1)[0])
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    return not (isinstance(address, ipaddress.IPv6Address) and address.is_site_local) and not any(
        address in network for network in _CARRIERS if network.version == address.version
    )
