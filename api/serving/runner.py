"""One thread owns one engine; requests come from an event loop and their outputs go back to it.

The thread blocks on its inbox while there is nothing to decode, and looks into it between two rounds otherwise, so that
requests join and leave the batch at the next round.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from eda_service.decoding.engine import Engine
from eda_service.decoding.request import SamplingParams, StepOutput
from eda_service.decoding.variants import BASE
from eda_service.distributed.resources import limit_threads
from eda_service.errors import EdaError, OverloadedError

logger = logging.getLogger(__name__)
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class _Submit:
    request_id: str
    prompt_ids: list[int]
    params: SamplingParams
    variant: str
    stream: _Stream


@dataclass(frozen=True)
class _Cancel:
    request_id: str


@dataclass(frozen=True)
class _Call:
    function: Callable[[Engine], Any]
    done: Future[Any]

    def run(self, engine: Engine) -> None:
        """Hand the result, or what was raised on purpose, to whoever waits."""
        try:
            self.done.set_result(self.function(engine))
        except EdaError as error:
            self.done.set_exception(error)


class _Stop:
    pass


@dataclass(frozen=True)
class _Stream:
    """Where one request's outputs go; an EdaError ends it."""

    loop: asyncio.AbstractEventLoop
    outputs: asyncio.Queue[StepOutput | EdaError]

    def put(self, item: StepOutput | EdaError) -> None:
        """Hand over from the engine's thread; a loop that is closed has nobody left to read."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.outputs.put_nowait, item)


class EngineRunner:
    """Runs an engine.

    Args:
        engine: Used by the runner's thread only, from now on.
        num_threads: CPU threads of the engine.
        max_waiting: Requests that may wait for a slot; more are refused.
    """

    def __init__(self, engine: Engine, *, num_threads: int, max_waiting: int) -> None:
        self._engine, self._num_threads = engine, num_threads
        self._max_open = engine.max_batch + max_waiting
        self._num_open = 0
        self._ids = itertools.count()
        self._inbox: queue.SimpleQueue[_Submit | _Cancel | _Call | _Stop] = queue.SimpleQueue()
        self._streams: dict[str, _Stream] = {}
        self._stopping = False
        self.failure: str | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def num_open(self) -> int:
        """Requests that run or wait."""
        return self._num_open

    async def call(self, function: Callable[[Engine], ResultT]) -> ResultT:
        """Run something with the engine on its thread, between two rounds.

        Raises:
            EdaError: Raised by the function, or the engine has failed.
        """
        if self.failure is not None:
            raise EdaError(self.failure)
        done: Future[ResultT] = Future()
        self._inbox.put(_Call(function, done))
        return await asyncio.wrap_future(done)

    async def generate(
        self, prompt_ids: Sequence[int], params: SamplingParams, *, variant: str = BASE
    ) -> AsyncGenerator[StepOutput, None]:
        """Decode one request; closing the iterator early frees its slot at the next round.

        Raises:
            NotFoundError: No such variant is loaded.
            OverloadedError: Too many requests run and wait.
            RequestError: The engine refuses the request.
            EdaError: The engine failed.
        """
        if self.failure is not None:
            raise EdaError(self.failure)
        if self._num_open >= self._max_open:
            raise OverloadedError(f"{self._num_open} requests run and wait, which is the limit; try again in a second")
        request_id = str(next(self._ids))
        stream = _Stream(asyncio.get_running_loop(), asyncio.Queue())
        self._num_open += 1
        ended = False
        try:
            self._inbox.put(_Submit(request_id, list(prompt_ids), params, variant, stream))
            while not ended:
                item = await stream.outputs.get()
                ended = isinstance(item, EdaError) or item.finish_reason is not None
                if isinstance(item, EdaError):
                    raise item
                yield item
        finally:
            self._num_open -= 1
            if not ended:
                self._inbox.put(_Cancel(request_id))

    def retire(self) -> None:
        """Finish what runs, then end the thread and free the engine."""
        self._inbox.put(_Stop())

    def join(self, timeout_s: float) -> None:
        """Wait for a retired runner."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        limit_threads(self._num_threads)
        try:
            while not (self._stopping and not self._engine.has_work):
                self._read_inbox()
                if self._engine.has_work:
                    for output in self._engine.step():
                        self._deliver(output)
        except Exception:
            # The engine's state is unknown now: its requests get an error and the health check has us replaced.
            logger.exception("the engine failed")
            self.failure = "the engine failed and is being restarted; send the request again"
            while not self._inbox.empty():
                item = self._inbox.get()
                if isinstance(item, _Submit):
                    item.stream.put(EdaError(self.failure))
                elif isinstance(item, _Call):
                    item.done.set_exception(EdaError(self.failure))
            for stream in self._streams.values():
                stream.put(EdaError(self.failure))

    def _read_inbox(self) -> None:
        while not self._engine.has_work or not self._inbox.empty():
            item = self._inbox.get()
            if isinstance(item, _Submit):
                self._submit(item)
            elif isinstance(item, _Cancel):
                self._engine.cancel(item.request_id)
            elif isinstance(item, _Call):
                item.run(self._engine)
            else:
                self._stopping = True
            if self._stopping:
                return

    def _submit(self, item: _Submit) -> None:
        try:
            self._engine.submit(item.request_id, item.prompt_ids, item.params, variant=item.variant)
        except EdaError as error:
            item.stream.put(error)
            return
        self._streams[item.request_id] = item.stream

    def _deliver(self, output: StepOutput) -> None:
        stream = self._streams[output.request_id]
        if output.finish_reason is not None:
            del self._streams[output.request_id]
        stream.put(EdaError(output.error or "decoding failed") if output.finish_reason == "error" else output)
