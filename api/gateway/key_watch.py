"""Ends open requests soon after their key was revoked or has expired.

The database is asked once a second, with a single query for all keys of open requests. While the database does not
answer, open requests go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import anyio
from anyio.to_thread import run_sync

from api.auth import InvalidKeyError
from api.troubles import Troubles
from eda_service.jobstore.keys import KeyStore

logger = logging.getLogger(__name__)
T = TypeVar("T")

DEAD_KEY = "the key was revoked or has expired while it was answered; `eda keys create` makes a new one"


class KeyWatch:
    """Watches the keys of open requests; used on one event loop.

    Args:
        keys: Every key of the service.
        interval_s: Seconds between two checks.
    """

    def __init__(self, keys: KeyStore, *, interval_s: float = 1.0) -> None:
        self._store, self._interval_s = keys, interval_s
        self._open: dict[str | None, set[asyncio.Event]] = {}
        self._thread = anyio.CapacityLimiter(1)  # its own: a busy service must not put the look off
        self._task: asyncio.Task[None] | None = None
        self._troubles = Troubles(logger)

    def start(self) -> None:
        """Begin to check; needs a running loop."""
        self._task = asyncio.create_task(self._look())

    async def stop(self) -> None:
        """Stop checking."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    @contextmanager
    def open(self, key_id: str | None) -> Iterator[asyncio.Event]:
        """Return an event that is set once a key is no longer valid; it is watched until the end of the block.

        Args:
            key_id: Id of the key; None: the service had no keys. A request without a key ends once the service has
                keys.
        """
        is_dead = asyncio.Event()
        self._open.setdefault(key_id, set()).add(is_dead)
        try:
            yield is_dead
        finally:
            waiting = self._open[key_id]
            waiting.discard(is_dead)
            if not waiting:
                del self._open[key_id]

    async def unless_dead(self, key_id: str | None, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of some work for a key; the work is cancelled if the key becomes invalid before.

        Raises:
            InvalidKeyError: The key is no longer valid.
            Exception: Any error that the work raises.
        """
        with self.open(key_id) as is_dead:
            working, dying = asyncio.ensure_future(work), asyncio.ensure_future(is_dead.wait())
            try:
                await asyncio.wait((working, dying), return_when=asyncio.FIRST_COMPLETED)
                if working.done():
                    return working.result()
                raise InvalidKeyError(DEAD_KEY)
            finally:
                await cancelled(working, dying)

    async def _look(self) -> None:
        while True:
            if self._open:
                with self._troubles.caught("the look whether keys are still good"):
                    dead = await run_sync(self._dead, set(self._open), limiter=self._thread)
                    for is_dead in (each for key_id in dead for each in self._open.get(key_id, ())):
                        is_dead.set()
            await asyncio.sleep(self._interval_s)

    def _dead(self, key_ids: set[str | None]) -> set[str | None]:
        named = {key_id for key_id in key_ids if key_id is not None}
        dead: set[str | None] = set(self._store.dead(named)) if named else set()
        if None in key_ids and self._store.exist():
            dead.add(None)
        return dead


async def cancelled(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks, some of which may have ended, and wait for them."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
