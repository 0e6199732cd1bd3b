"""Places in an engine's queue for the answers of one call, and the buffer in which its outputs arrive.

A slow reader gets all outputs since its last read in one piece. So it delays nobody else, and the buffer never holds
more than the tokens of its own answers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from eda_service.decoding.request import SamplingParams, StepOutput
from eda_service.decoding.variants import BASE
from eda_service.errors import DeadlineExceededError, EdaError


@dataclass(frozen=True)
class DecodeRequest:
    """One answer to decode.

    Attributes:
        uid: Uid of the deployment for which the answer is counted.
        variant: The engine's name for the variant.
        pack: Reference of the pack that drafts; each pack is counted by itself.
        draft_of: The engine's name for the variant whose draft is used; None: the request's own variant.
    """

    uid: str
    prompt_ids: list[int]
    params: SamplingParams
    variant: str = BASE
    pack: str | None = None
    draft_of: str | None = None


class Queue(Protocol):
    """The methods of a runner that pending answers call."""

    def submit(self, decode_request: DecodeRequest, pending: PendingAnswers, index: int) -> str:
        """Queue one answer."""

    def cancel(self, request_id: str, reason: str) -> None:
        """End one answer."""

    def release(self, count: int) -> None:
        """Give places back."""


class PendingAnswers:
    """The answers of one call. A runner's `book` makes it; it is used on one event loop.

    Args:
        queue: The runner.
        count: Number of places taken.
        timeout_s: Time in seconds from now until a DeadlineExceededError.
    """

    def __init__(self, queue: Queue, count: int, timeout_s: float) -> None:
        self.loop = asyncio.get_running_loop()
        self._queue, self._num_places = queue, count
        self._open: dict[int, str] = {}
        self._box: list[tuple[int, StepOutput | EdaError]] = []
        self._arrived, self._ended = asyncio.Event(), asyncio.Event()
        self._closed = False
        late = DeadlineExceededError(
            f"the answer took longer than {timeout_s:g} s; ask for fewer tokens, or raise EDA_REQUEST_TIMEOUT_S"
        )
        self._timer = self.loop.call_later(timeout_s, self.put, -1, late)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def num_open(self) -> int:
        """Number of answers submitted and not ended."""
        return len(self._open)

    def start(self, decode_requests: Sequence[DecodeRequest]) -> None:
        """Submit the answers, at most as many as are booked; outputs name them by index."""
        assert len(decode_requests) <= self._num_places
        for index, decode_request in enumerate(decode_requests):
            self._open[index] = self._queue.submit(decode_request, self, index)

    async def take(self, after_s: float = 0.0) -> list[tuple[int, StepOutput]]:
        """Return the outputs since the last call, in order, with each answer's index; waits where there are none.

        Args:
            after_s: Seconds to wait before reading, unless an answer ends or fails earlier.

        Raises:
            DeadlineExceededError: The time is up.
            EdaError: The engine refuses an answer or failed.
        """
        if after_s > 0.0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(after_s):
                    await self._ended.wait()
        while not self._box:
            self._arrived.clear()
            await self._arrived.wait()
        taken: list[tuple[int, StepOutput]] = []
        for place, (index, item) in enumerate(self._box):
            if isinstance(item, EdaError):
                if not taken:
                    raise item
                del self._box[:place]
                return taken
            taken.append((index, item))
        self._box.clear()
        self._ended.clear()
        return taken

    def cancel(self, index: int, reason: str) -> None:
        """End one answer early; it is counted under the reason."""
        request_id = self._open.pop(index, None)
        if request_id is not None:
            self._queue.cancel(request_id, reason)
            self._release(1)

    def close(self) -> None:
        """Cancel the answers that still run and give all places back. Closing twice has no further effect."""
        self._closed = True
        self._timer.cancel()
        for index in list(self._open):
            self.cancel(index, "abort")
        self._release(self._num_places)

    def put(self, index: int, item: StepOutput | EdaError) -> None:
        """Take an output; call it on the event loop."""
        ended = isinstance(item, EdaError) or item.finish_reason is not None
        if ended and self._open.pop(index, None) is not None:
            self._release(1)
        if not self._closed:
            self._box.append((index, item))
            self._arrived.set()
            if ended:
                self._ended.set()

    def put_soon(self, index: int, item: StepOutput | EdaError) -> None:
        """`put` from another thread; does nothing when the event loop is closed."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.put, index, item)

    def _release(self, count: int) -> None:
        self._num_places -= count
        if count:
            self._queue.release(count)
