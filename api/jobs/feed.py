"""Live events: one look at the database serves every open stream.

A stream asks for its job's events only when some were written, and sleeps on a signal between. Streams have few threads
of their own to ask in, so that a thousand of them do not hold up a single request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from weakref import WeakValueDictionary

import anyio
from anyio.to_thread import run_sync
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.concurrency import run_in_threadpool

from api.jobs.schemas import EventBody
from api.troubles import Troubles
from eda_service.jobstore import Event, JobStore

logger = logging.getLogger(__name__)

_PAGE = 100
_KEEP_ALIVE_S = 5.0
_LOOK_AFTER = 6  # so many keep-alives without a sign: one may have been missed
_NUM_THREADS = 4


class EventFeed:
    """Signals that events were written.

    Args:
        store: The queue.
        interval_s: Time between two looks.
    """

    def __init__(self, store: JobStore, *, interval_s: float = 0.25) -> None:
        self._store, self._interval_s = store, interval_s
        self._changed = asyncio.Event()
        self._signals: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self._threads = anyio.CapacityLimiter(_NUM_THREADS)
        self._task: asyncio.Task[None] | None = None
        self._troubles = Troubles(logger)
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
        self._wake(set(self._signals))

    @property
    def is_ending(self) -> bool:
        """The process is going to stop, and with it every stream."""
        return self._is_ending

    async def wait(self, timeout_s: float) -> None:
        """Sleep until something was written anywhere, at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()

    async def stream(self, job_id: str, *, owner: str | None, after: int) -> AsyncIterator[bytes]:
        """Server-sent events of a job from the one after `after` on; ends after the event that ends the job,
        or when this process stops.

        Raises:
            NotFoundError: No such job of this owner; take the first item before answering.
        """
        while not self._is_ending:
            # Taken before the look, so that nothing written meanwhile is slept through.
            signal = self._signals.setdefault(job_id, asyncio.Event())
            is_over, (events, has_more) = await run_sync(self._read, job_id, owner, after, limiter=self._threads)
            for event in events:
                after = event.id
                yield _as_bytes(event)
            if has_more:
                continue
            if is_over:
                return
            if not events:
                yield KEEPALIVE_COMMENT
            for _ in range(_LOOK_AFTER):
                with suppress(TimeoutError):
                    async with asyncio.timeout(_KEEP_ALIVE_S):
                        await signal.wait()
                if signal.is_set():
                    break
                yield KEEPALIVE_COMMENT

    def _read(self, job_id: str, owner: str | None, after: int) -> tuple[bool, tuple[list[Event], bool]]:
        job = self._store.jobs.get(job_id, owner=owner)
        return job.is_terminal, self._store.events.of(job_id, owner=owner, after=after, limit=_PAGE)

    def _wake(self, jobs: set[str]) -> None:
        for job_id in jobs:
            signal = self._signals.pop(job_id, None)
            if signal is not None:
                signal.set()

    async def _look(self) -> None:
        last = -1
        while True:
            # While it fails, streams fall back to their keep-alive pace.
            with self._troubles.caught("the look for new events"):
                newest = await run_in_threadpool(self._store.events.last_id)
                changed: set[str] = set()
                if newest != last and self._signals:
                    changed = await run_in_threadpool(self._store.events.jobs_with, after=last)
                if newest != last:
                    last = newest
                    self._wake(changed)
                    self._changed.set()
                    self._changed = asyncio.Event()
            await asyncio.sleep(self._interval_s)


def _as_bytes(event: Event) -> bytes:
    body = EventBody.of(event)
    return format_sse_event(data_str=body.model_dump_json(), event=event.type, id=body.id)
