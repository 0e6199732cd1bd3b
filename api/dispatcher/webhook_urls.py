"""Checks the URLs of webhooks: https, to a host that all libraries involved read in the same way.

A check can be deceived by a host that one library encodes and another refuses, or that one reads as a name and another
as an address. So every ambiguous form is refused, and a URL is stored in the one form that is left: ASCII, the host in
lower case by IDNA 2008 without mapping (RFC 5891; UTS 46 would turn full-width digits into an address), or an address
in its canonical notation. A request can be built from every accepted URL; the address that it leads to is checked at
delivery.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import quote, urlsplit

import idna

from eda_service.addresses import is_public
from eda_service.errors import InputError

PARAM = "webhook.url"
MAX_CHARACTERS = 2048
_NOT_IN_A_URL = re.compile(r"[\x00-\x20\x7f-\xa0\\]")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # a last label that resolvers read as (a part of) an address
_MAX_LABEL, _MAX_HOST = 63, 253
_PRIVATE_NAMES = ("localhost", "local", "internal", "localdomain", "home.arpa")
_KEPT = "!$%&'()*+,;=:@/?-._~[]"


def check_url(url: str, *, private: bool = False) -> str:
    """Check a URL given at submit, and return it in the form in which it is stored.

    Args:
        url: URL as given by the caller.
        private: Whether addresses and names of private networks are accepted too, as a service in a closed network
            needs.

    Raises:
        InputError: The URL is not accepted; the message names the faulty part and what is allowed there.
    """
    if len(url) > MAX_CHARACTERS or _NOT_IN_A_URL.search(url):
        raise _refused(f"is longer than {MAX_CHARACTERS}, or has a space, a control character or a backslash")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname or ""
    except ValueError as error:
        raise _refused("is no URL; its port is a number from 1 to 65535") from error
    if parts.scheme != "https" or not host or "@" in parts.netloc or port == 0 or parts.netloc.endswith(":"):
        raise _refused("is not of the form https://host[:port]/path, without a user")
    host = _address(host, private=private) if parts.netloc.startswith("[") else _host(host, private=private)
    try:
        path, query = (quote(part, safe=_KEPT) for part in (parts.path, parts.query))
    except UnicodeEncodeError as error:
        raise _refused("has half of a surrogate pair, which no text has") from error
    found = f"https://{host}{'' if port is None else f':{port}'}{path or '/'}{f'?{query}' if query else ''}"
    if len(found) > 2 * MAX_CHARACTERS:
        raise _refused(f"is longer than {2 * MAX_CHARACTERS} characters in ASCII")
    return found


def _address(host: str, *, private: bool) -> str:
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError as error:
        raise _refused("has no IPv6 address between its brackets") from error
    if "%" in host:
        raise _refused("names an interface of this machine")
    _require_public(str(address), private)
    return f"[{address.compressed}]"


def _host(host: str, *, private: bool) -> str:
    try:
        found = idna.encode(host, strict=True, uts46=False, std3_rules=True).decode("ascii").lower()
    except (UnicodeError, ValueError, IndexError) as error:  # `IDNAError` is a UnicodeError
        raise _refused("has a host that is no domain name (IDNA 2008, up to 63 characters between dots)") from error
    labels = found.split(".")
    if len(found) > _MAX_HOST or not all(_LABEL.fullmatch(label) and len(label) <= _MAX_LABEL for label in labels):
        raise _refused(f"has a host that is no domain name of at most {_MAX_HOST} characters, without a dot at its end")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            address = str(ipaddress.IPv4Address(found))
        except ValueError as error:
            raise _refused("has an address that is not of the form 192.0.2.1") from error
        _require_public(address, private)
        return address
    is_private = len(labels) == 1 or any(f".{found}".endswith(f".{name}") for name in _PRIVATE_NAMES)
    if is_private and not private:
        raise _refused("names a host of a private network; only public ones are called")
    return found


def _require_public(address: str, private: bool) -> None:
    if not private and not is_public(address):
        raise _refused("names a private address; only public ones are called")


def _refused(why: str) -> InputError:
    return InputError(f"{PARAM} {why}", param=PARAM)
