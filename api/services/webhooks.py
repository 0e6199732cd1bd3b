"""Delivers the outbox: Standard Webhooks (https://www.standardwebhooks.com), signed, retried, to public addresses.

A row is written in the transaction of the event it tells of, so none is forgotten; it is delivered at least once, under
the same `webhook-id` each time.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import logging
import socket
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx
from standardwebhooks import Webhook

from api.services.instruments import Instruments
from api.settings import Settings
from eda_service.errors import InputError
from eda_service.jobstore import JobStore
from eda_service.jobstore.job import Delivery

logger = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 5.0, 3600.0
_MAX_ATTEMPTS = 12
_HTTPS_PORT = 443


class DeliveryError(Exception):
    """One attempt failed; the message is kept with the row."""


def check_url(url: str) -> str:
    """A URL that may be given at submit: https, a host, no user, no address of a private network.

    Raises:
        InputError: It is not.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise InputError("webhook.url is no URL", param="webhook.url") from error
    if parts.scheme != "https" or not parts.hostname or parts.username or parts.password:
        raise InputError("webhook.url is not of the form https://host/path", param="webhook.url")
    try:
        address = ipaddress.ip_address(parts.hostname)
    except ValueError:
        return url
    if not address.is_global:
        raise InputError("webhook.url names a private address; only public ones are called", param="webhook.url")
    return url


class Webhooks:
    """One pass over what is due.

    Args:
        store: The outbox.
        settings: Whether private addresses are allowed (closed networks), and whose certificates are trusted.
        instruments: Count what happens.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, store: JobStore, settings: Settings, instruments: Instruments, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._store, self._settings, self._clock = store, settings, clock
        self._outcomes = instruments.webhooks
        verify = True if settings.webhook_ca_file is None else str(settings.webhook_ca_file)
        self._http = httpx.Client(timeout=_TIMEOUT_S, follow_redirects=False, trust_env=False, verify=verify)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def run_once(self) -> None:
        """Deliver what is due; a failure is put off, ever longer, and after the last attempt given up with an event."""
        for delivery in self._store.due_webhooks():
            try:
                self._deliver(delivery)
            except (DeliveryError, httpx.HTTPError) as error:
                self._put_off(delivery, str(error) or type(error).__name__)
            else:
                self._store.webhook_delivered(delivery.id)
                self._outcomes.labels("delivered").inc()

    def _deliver(self, delivery: Delivery) -> None:
        body = json.dumps(delivery.payload, separators=(",", ":"))
        now = datetime.datetime.fromtimestamp(self._clock(), tz=datetime.UTC)
        name = f"msg_{delivery.job_id}_{delivery.id}"
        headers = {
            "content-type": "application/json",
            "webhook-id": name,
            "webhook-timestamp": str(int(now.timestamp())),
        }
        if delivery.secret:
            headers["webhook-signature"] = Webhook(delivery.secret).sign(name, now, body)
        parts = urlsplit(delivery.url)
        assert parts.hostname is not None
        address = self._address_of(parts.hostname, parts.port or _HTTPS_PORT)
        # The connection goes to the address that was checked: a name may resolve differently the next moment.
        host = f"[{address}]" if ":" in address else address
        netloc = host if parts.port is None else f"{host}:{parts.port}"
        response = self._http.post(
            parts._replace(netloc=netloc, fragment="").geturl(),
            content=body.encode(),
            headers={**headers, "host": parts.netloc},
            extensions={"sni_hostname": parts.hostname},
        )
        if not response.is_success:
            raise DeliveryError(f"the receiver answered HTTP {response.status_code}")

    def _address_of(self, host: str, port: int) -> str:
        try:
            found = {str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        except OSError as error:
            raise DeliveryError(f"{host} does not resolve") from error
        if not self._settings.webhook_private_addresses:
            hidden = [each for each in found if not ipaddress.ip_address(each.split("%")[0]).is_global]
            if hidden:
                raise DeliveryError(f"{host} resolves to a private address; only public ones are called")
        return sorted(found)[0]

    def _put_off(self, delivery: Delivery, reason: str) -> None:
        attempts = delivery.attempts + 1
        logger.warning("webhook of %s, attempt %d: %s", delivery.job_id, attempts, reason)
        if attempts >= _MAX_ATTEMPTS:
            self._store.webhook_gave_up(delivery.id, reason)
            self._outcomes.labels("gave_up").inc()
            return
        wait_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (attempts - 1))
        self._store.webhook_failed(delivery.id, reason, not_before=int(self._clock() + wait_s))
        self._outcomes.labels("failed").inc()
