"""Delivers webhooks from the outbox by Standard Webhooks (https://www.standardwebhooks.com), signed, with retries.

A webhook's row is written in the same transaction as its event, so none is forgotten; it is delivered at least once,
under the same `webhook-id` each time. Each delivery is handled by itself: an error of one does not stop the others.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

import certifi
import httpx
from standardwebhooks import Webhook

from api.dispatcher.webhook_urls import check_url
from api.metrics.instruments import Instruments
from api.settings import Settings
from api.troubles import Troubles
from eda_service.addresses import is_public
from eda_service.errors import InputError, NotFoundError
from eda_service.jobstore.jobs.job import Delivery
from eda_service.jobstore.outbox import Outbox

logger = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
_WHOLE_TIMEOUT_S = 20.0  # a receiver that sends a byte now and then never runs into the other
_AT_ONCE = 8
_FIRST_WAIT_S, _LONGEST_WAIT_S = 5.0, 3600.0
_MAX_ATTEMPTS = 12
_HTTPS_PORT = 443


class DeliveryError(Exception):
    """One attempt failed; the message is stored in the row."""


class UndeliverableError(DeliveryError):
    """No later attempt can succeed, because the delivery itself is faulty."""


class Webhooks:
    """Sends all webhooks that are due, in one pass.

    Args:
        outbox: Webhooks that wait to be sent.
        settings: Settings: whether private addresses are allowed (closed networks), and which certificates are trusted.
        instruments: Counters of this process.
        clock: Clock in seconds since the epoch.
    """

    def __init__(
        self, outbox: Outbox, settings: Settings, instruments: Instruments, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._outbox, self._settings, self._clock = outbox, settings, clock
        self._outcomes, self._troubles = instruments.webhooks, Troubles(logger)
        self._trusted = ssl.create_default_context(cafile=settings.webhook_ca_file or certifi.where())

    def run_once(self) -> None:
        """Deliver all due webhooks; a failed one is repeated after ever longer waits, and in the end given up."""
        due = self._outbox.due()
        if due:
            asyncio.run(self._deliver_all(due))

    async def _deliver_all(self, due: Sequence[Delivery]) -> None:
        """Deliver several webhooks at once, so that a slow receiver delays few others."""
        places = asyncio.Semaphore(_AT_ONCE)
        async with httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False, verify=self._trusted) as http:

            async def deliver(delivery: Delivery) -> None:
                async with places:
                    await self._try(http, delivery)

            await asyncio.gather(*map(deliver, due))

    async def _try(self, http: httpx.AsyncClient, delivery: Delivery) -> None:
        # The database fails: the delivery is due again at the next look, and so are the others.
        with self._troubles.caught(f"noting what became of webhook {delivery.id}"):
            await self._try_once(http, delivery)

    async def _try_once(self, http: httpx.AsyncClient, delivery: Delivery) -> None:
        try:
            async with asyncio.timeout(_WHOLE_TIMEOUT_S):
                await self._deliver(http, delivery)
        except UndeliverableError as error:
            self._give_up(delivery, str(error))
        except (DeliveryError, httpx.HTTPError, TimeoutError) as error:
            self._put_off(delivery, str(error) or type(error).__name__)
        except Exception as error:
            # Nothing that we know of; it is this delivery's trouble, with the patience that every other has.
            self._troubles.tell(f"sending webhook {delivery.id}", error)
            self._put_off(delivery, f"it cannot be sent: {type(error).__name__}")
        else:
            with suppress(NotFoundError):
                self._outbox.delivered(delivery.id)
            self._outcomes.labels("delivered").inc()

    async def _deliver(self, http: httpx.AsyncClient, delivery: Delivery) -> None:
        if delivery.unreadable is not None:
            raise UndeliverableError(delivery.unreadable)
        try:
            url = check_url(delivery.url, private=True)  # what is private is seen by the address that is called
        except InputError as error:
            raise UndeliverableError(error.message) from error
        body = json.dumps(delivery.payload, separators=(",", ":"))
        now = datetime.datetime.fromtimestamp(self._clock(), tz=datetime.UTC)
        name = f"msg_{delivery.job_id}_{delivery.id}"
        headers = {
            "content-type": "application/json",
            "webhook-id": name,
            "webhook-timestamp": str(int(now.timestamp())),
        }
        if delivery.secret is not None:
            headers["webhook-signature"] = _signature(delivery.secret, name, now, body)
        parts = urlsplit(url)
        assert parts.hostname is not None
        address = await self._address_of(parts.hostname, parts.port or _HTTPS_PORT)
        # The connection goes to the address that was checked: a name may resolve differently the next moment.
        host = f"[{address}]" if ":" in address else address
        netloc = host if parts.port is None else f"{host}:{parts.port}"
        async with http.stream(
            "POST",
            parts._replace(netloc=netloc, fragment="").geturl(),
            content=body.encode(),
            headers={**headers, "host": parts.netloc},
            extensions={"sni_hostname": parts.hostname},
        ) as response:  # its body is not read: it may never end
            if not response.is_success:
                raise DeliveryError(f"the receiver answered HTTP {response.status_code}")

    async def _address_of(self, host: str, port: int) -> str:
        look_up = asyncio.get_running_loop().getaddrinfo
        try:
            found = {str(info[4][0]) for info in await look_up(host, port, type=socket.SOCK_STREAM)}
        except (OSError, UnicodeError) as error:
            raise DeliveryError(f"{host} does not resolve") from error
        if not self._settings.webhook_private_addresses and not all(map(is_public, found)):
            raise DeliveryError(f"{host} resolves to a private address; only public ones are called")
        return sorted(found)[0]

    def _give_up(self, delivery: Delivery, reason: str) -> None:
        logger.warning("webhook %d of %s is given up: %s", delivery.id, delivery.job_id, reason)
        self._outbox.gave_up(delivery.id, reason)
        self._outcomes.labels("gave_up").inc()

    def _put_off(self, delivery: Delivery, reason: str) -> None:
        attempts = delivery.attempts + 1
        if attempts >= _MAX_ATTEMPTS:
            self._give_up(delivery, reason)
            return
        logger.warning("webhook %d of %s, attempt %d: %s", delivery.id, delivery.job_id, attempts, reason)
        wait_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (attempts - 1))
        self._outbox.failed(delivery.id, reason, not_before=int(self._clock() + wait_s))
        self._outcomes.labels("failed").inc()


def _signature(secret: str, name: str, now: datetime.datetime, body: str) -> str:
    """Sign a message by Standard Webhooks; a message whose secret is invalid is never sent unsigned.

    Raises:
        UndeliverableError: The secret is not base64.
    """
    try:
        return Webhook(secret).sign(name, now, body)
    except (ValueError, RuntimeError) as error:
        raise UndeliverableError("its secret is no base64, so it cannot be signed") from error
