"""Live parts of pages: server-sent events with rendered HTML, sent when it differs from the last one."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.concurrency import run_in_threadpool

from api.gateway.key_watch import KeyWatch
from api.gateway.keyed_stream import EVENT_STREAM, STREAM_HEADERS, KeyedStream
from api.jobs.feed import EventFeed
from api.ui.access import Visitor
from eda_service.errors import EdaError

_OVER = format_sse_event(event="over", data_str="{}")  # the browser loads the page again, which asks to log in
_LONGEST_S = 600.0  # then the browser comes again, with a key that is still valid or not


@dataclass(frozen=True)
class Look:
    """The present content of a page's live parts.

    Attributes:
        parts: HTML of each part, by the id of the element that it replaces.
        added: HTML to put before the first child of an element, by its id.
        is_over: Whether nothing will change any more; the browser then loads the page once again.
    """

    parts: dict[str, str] = field(default_factory=dict)
    added: list[tuple[str, str]] = field(default_factory=list)
    is_over: bool = False


async def answer(
    feed: EventFeed, keys: KeyWatch, visitor: Visitor, look: Callable[[], Look], *, interval_s: float = 1.0
) -> KeyedStream:
    """Stream looks until nothing will change any more, or the visitor's key is no longer valid. The first look is taken
    before the answer begins, so that its errors become answers of their own.
    """
    first = await run_in_threadpool(look)
    return KeyedStream(
        _events(feed, look, first, interval_s),
        keys=keys,
        key_id=visitor.caller.key_id,
        last=_OVER,
        media_type=EVENT_STREAM,
        headers=STREAM_HEADERS,
    )


async def _events(feed: EventFeed, look: Callable[[], Look], found: Look, interval_s: float) -> AsyncIterator[bytes]:
    sent: dict[str, str] = {}
    ends_at = time.monotonic() + _LONGEST_S
    while True:
        changed = {target: html for target, html in found.parts.items() if sent.get(target) != html}
        sent |= changed
        for target, html in changed.items():
            yield _put(target, "replace", html)
        for target, html in found.added:
            yield _put(target, "prepend", html)
        if found.is_over:
            yield _OVER
            return
        if not changed and not found.added:
            yield KEEPALIVE_COMMENT
        await feed.wait(interval_s)
        if feed.is_ending or time.monotonic() > ends_at:
            return
        try:
            found = await run_in_threadpool(look)
        except EdaError:  # what is looked at is gone: the page itself says so
            yield _OVER
            return


def _put(target: str, how: str, html: str) -> bytes:
    return format_sse_event(event="put", data_str=json.dumps({"target": target, "how": how, "html": html}))
