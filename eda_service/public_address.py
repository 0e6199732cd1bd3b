"""Which IP addresses are the public Internet's: what a request of a user may make this service connect to."""

from __future__ import annotations

import ipaddress

# `is_global` knows the private ranges; these carry or translate to addresses of other networks, or are no single host.
_CARRIERS = tuple(
    ipaddress.ip_network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "192.88.99.0/24")
)


def is_public(text: str) -> bool:
    """Whether an address is one host of the public Internet.

    Args:
        text: An IPv4 or IPv6 address, with or without a zone.

    Raises:
        ValueError: It is no address.
    """
    address = ipaddress.ip_address(text.split("%", maxsplit=1)[0])
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    return not (isinstance(address, ipaddress.IPv6Address) and address.is_site_local) and not any(
        address in network for network in _CARRIERS if network.version == address.version
    )
