"""Live events: one look at the database serves every open stream.

A stream asks for its job's events only when something was written since; between looks it sleeps on a signal.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.concurrency import run_in_threadpool

from api.schemas import EventBody
from eda_service.jobstore import Event, JobStore

logger = logging.getLogger(__name__)

_PAGE = 100
_KEEP_ALIVE_S = 5.0  # also the longest wait for an event whose sign was missed (see `last_event_id`)


class EventFeed:
    """Signals that events were written.

    Args:
        store: The queue.
        interval_s: Time between two looks.
    """

    def __init__(self, store: JobStore, *, interval_s: float = 0.25) -> None:
        self._store, self._interval_s = store, interval_s
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_ending = False

    def start(self) -> None:
        """Begin to look; needs a running loop."""
        self._task = asyncio.create_task(self._look())

    async def stop(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def end_streams(self) -> None:
        """End every stream after what it has sent; the process is going to stop."""
        self._is_ending = True
        self._changed.set()

    @property
    def is_ending(self) -> bool:
        """The process is going to stop, and with it every stream."""
        return self._is_ending

    async def wait(self, timeout_s: float) -> None:
        """Sleep until something was written anywhere, at most so long."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout_s)

    async def stream(self, job_id: str, *, owner: str | None, after: int) -> AsyncIterator[bytes]:
        """Server-sent events of a job from the one after `after` on; ends after the event that ends the job,
        or when this process stops.

        Raises:
            NotFoundError: No such job of this owner; take the first item before answering.
        """
        while not self._is_ending:
            changed = self._changed  # taken before the look, so that nothing written meanwhile is slept through
            job = await run_in_threadpool(self._store.get, job_id, owner=owner)
            events, has_more = await run_in_threadpool(
                self._store.events, job_id, owner=owner, after=after, limit=_PAGE
            )
            for event in events:
                after = event.id
                yield _as_bytes(event)
            if has_more:
                continue
            if job.is_terminal:
                return
            if not events:
                yield KEEPALIVE_COMMENT
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), _KEEP_ALIVE_S)

    async def _look(self) -> None:
        last = -1
        while True:
            try:
                newest = await run_in_threadpool(self._store.last_event_id)
            except Exception:
                # The edge of a task that must live: streams fall back to their keep-alive pace until this passes.
                logger.exception("cannot look for new events")
            else:
                if newest != last:
                    last = newest
                    self._changed.set()
                    self._changed = asyncio.Event()
            await asyncio.sleep(self._interval_s)


def _as_bytes(event: Event) -> bytes:
    body = EventBody.of(event)
    return format_sse_event(data_str=body.model_dump_json(), event=event.type, id=body.id)
