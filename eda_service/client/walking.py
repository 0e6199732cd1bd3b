"""Page after page of a list, and look after look at a job until it has ended; for both clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Protocol, TypeVar

from eda_service.client.answers.answers import Page

T = TypeVar("T")


class Ending(Protocol):
    """A job, whatever it does."""

    @property
    def id(self) -> str:
        """Its name."""

    @property
    def status(self) -> str:
        """Where it is."""

    @property
    def is_terminal(self) -> bool:
        """Whether it has ended."""


JobT = TypeVar("JobT", bound=Ending)


def every(fetch: Callable[[str | None], Page[T]], after: str | None = None) -> Iterator[T]:
    """The items of a list, from the one behind `after`; `fetch` gives the page behind an id."""
    while True:
        page = fetch(after)
        yield from page
        if not page.has_more:
            return
        after = page.last_id


def until_ended(look: Callable[[], JobT], interval_s: float) -> Iterator[JobT]:
    """A job again and again until it is terminal; that state is the last item."""
    while True:
        job = look()
        yield job
        if job.is_terminal:
            return
        time.sleep(interval_s)


def last(jobs: Iterator[JobT], timeout_s: float | None) -> JobT:
    """The last of `until_ended`.

    Raises:
        TimeoutError: It has not come after `timeout_s`.
    """
    clock = Deadline(timeout_s)
    for job in jobs:
        if job.is_terminal:
            return job
        clock.check(job)
    raise AssertionError("a job is looked at until it is terminal")


async def every_async(fetch: Callable[[str | None], Awaitable[Page[T]]], after: str | None = None) -> AsyncIterator[T]:
    """`every`, awaited."""
    while True:
        page = await fetch(after)
        for item in page:
            yield item
        if not page.has_more:
            return
        after = page.last_id


async def until_ended_async(look: Callable[[], Awaitable[JobT]], interval_s: float) -> AsyncIterator[JobT]:
    """`until_ended`, awaited."""
    while True:
        job = await look()
        yield job
        if job.is_terminal:
            return
        await asyncio.sleep(interval_s)


async def last_async(jobs: AsyncIterator[JobT], timeout_s: float | None) -> JobT:
    """`last`, awaited."""
    clock = Deadline(timeout_s)
    async for job in jobs:
        if job.is_terminal:
            return job
        clock.check(job)
    raise AssertionError("a job is looked at until it is terminal")


class Deadline:
    """How long a job is waited for.

    Args:
        timeout_s: From now on; None: for ever.
    """

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s, self._began = timeout_s, time.monotonic()

    def check(self, job: Ending) -> None:
        """Give up on a job that has not ended in time.

        Raises:
            TimeoutError: It has not.
        """
        if self._timeout_s is not None and time.monotonic() - self._began > self._timeout_s:
            raise TimeoutError(f"job {job.id} is still {job.status} after {self._timeout_s:.0f} s")
