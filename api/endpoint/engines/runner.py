"""One thread owns one engine; requests come from an event loop and their outputs go back to it.

The thread blocks on its inbox while there is nothing to decode, and looks into it between two rounds otherwise, so that
requests join and leave the batch at the next round. All outputs of a round cross over in one call.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from api.endpoint.engines.pending_answers import DecodeRequest, PendingAnswers
from api.endpoint.metrics.counts import ModelCounts, RequestTrace
from api.endpoint.metrics.round_times import RoundTimes
from eda_service.decoding.engine import Engine
from eda_service.decoding.request import StepOutput
from eda_service.errors import EdaError, OverloadedError, ResourceError
from eda_service.raycluster.resources import limit_threads

logger = logging.getLogger(__name__)
ResultT = TypeVar("ResultT")


class EngineFailedError(ResourceError):
    """The engine behind this endpoint failed; the replica is being replaced."""

    code = "engine_failed"
    retryable = True


@dataclass(frozen=True)
class _Submit:
    request_id: str
    decode_request: DecodeRequest
    pending: PendingAnswers
    index: int
    at_s: float


@dataclass(frozen=True)
class _Cancel:
    request_id: str
    reason: str


@dataclass(frozen=True)
class _Call:
    function: Callable[[Engine], Any]
    done: Future[Any]

    def run(self, engine: Engine) -> None:
        """Hand the result, or what was raised on purpose, to whoever waits; nobody may be there any more."""
        if not self.done.set_running_or_notify_cancel():
            return
        try:
            self.done.set_result(self.function(engine))
        except EdaError as error:
            self.done.set_exception(error)


class _Stop:
    pass


class _Wake:
    pass


@dataclass(frozen=True)
class _Running:
    decode_request: DecodeRequest
    pending: PendingAnswers
    index: int
    trace: RequestTrace


class EngineRunner:
    """Runs an engine.

    Args:
        engine: Used by the runner's thread only, from now on.
        num_threads: CPU threads of the engine.
        max_waiting: Requests that may wait for a slot; more are refused.

    Attributes:
        counts: By uid of the deployment and pack.
        round_times: Of the newest rounds.
        failure: Why the engine failed, once it has.
    """

    def __init__(self, engine: Engine, *, num_threads: int, max_waiting: int) -> None:
        self._engine, self._num_threads = engine, num_threads
        self.max_open = engine.max_batch + max_waiting
        self._num_open = 0
        self._ids = itertools.count()
        self._inbox: queue.SimpleQueue[_Submit | _Cancel | _Call | _Stop | _Wake] = queue.SimpleQueue()
        self._running: dict[str, _Running] = {}
        self._retired = self._stopping = False
        self.counts: defaultdict[tuple[str, str | None], ModelCounts] = defaultdict(ModelCounts)
        self.round_times = RoundTimes()
        self.failure: str | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def num_open(self) -> int:
        """Answers that run, wait, or are booked and not yet submitted."""
        return self._num_open

    @property
    def num_running(self) -> int:
        """Answers in the batch."""
        return self._engine.num_running

    @property
    def num_waiting(self) -> int:
        """Answers without a slot yet."""
        return max(0, self._num_open - self._engine.num_running)

    @property
    def is_alive(self) -> bool:
        """Whether anything may still be counted."""
        return self._thread.is_alive()

    def open_by_model(self) -> Counter[tuple[str, str | None, bool]]:
        """Submitted answers by uid of the deployment, pack, and whether they have a slot."""
        found = list(self._running.values())
        return Counter((each.decode_request.uid, each.decode_request.pack, each.trace.is_running) for each in found)

    def book(self, count: int, *, timeout_s: float) -> PendingAnswers:
        """Take places for the answers of one call; all or none. Close what is returned, whatever happens.

        Args:
            count: Answers.
            timeout_s: The answers end with a DeadlineExceededError after this long.

        Raises:
            OverloadedError: Too many answers run and wait.
            EngineFailedError: The engine has failed.
        """
        if self.failure is not None:
            raise EngineFailedError(self.failure)
        if self._num_open + count > self.max_open:
            raise OverloadedError(
                f"{self._num_open} of {self.max_open} places are taken and {count} more are asked for; "
                "try again in a second"
            )
        self._num_open += count
        return PendingAnswers(self, count, timeout_s)

    async def call(self, function: Callable[[Engine], ResultT]) -> ResultT:
        """Run something with the engine on its thread, between two rounds.

        Raises:
            EngineFailedError: The engine has failed.
            EdaError: Raised by the function.
        """
        if self.failure is not None:
            raise EngineFailedError(self.failure)
        done: Future[ResultT] = Future()
        self._inbox.put(_Call(function, done))
        return await asyncio.wrap_future(done)

    def submit(self, decode_request: DecodeRequest, pending: PendingAnswers, index: int) -> str:
        """Queue one of the pending answers; returns the id to cancel it by."""
        request_id = str(next(self._ids))
        self._inbox.put(_Submit(request_id, decode_request, pending, index, time.perf_counter()))
        return request_id

    def cancel(self, request_id: str, reason: str) -> None:
        """End an answer; its slot is free at the next round. It is counted under the reason."""
        self._inbox.put(_Cancel(request_id, reason))

    def release(self, count: int) -> None:
        """Give places back."""
        self._num_open -= count
        if self._retired and self._num_open == 0:
            self._inbox.put(_Wake())

    def retire(self) -> None:
        """Serve what is booked, then end the thread and free the engine."""
        self._retired = True
        self._inbox.put(_Stop())

    def join(self, timeout_s: float) -> None:
        """Wait for a retired runner."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        limit_threads(self._num_threads)
        try:
            while not (self._stopping and self._num_open == 0 and not self._engine.has_work):
                self._read_inbox()
                if self._engine.has_work:
                    self._round()
        except Exception:
            # The engine's state is unknown now: its requests get an error and the health check has us replaced.
            logger.exception("the engine failed")
            self.failure = "the engine failed and is being restarted; send the request again"
            for running in self._running.values():
                running.pending.put_soon(running.index, EngineFailedError(self.failure))
            self._refuse_for_good()

    def _round(self) -> None:
        started_s = time.perf_counter()
        outputs = self._engine.step()
        self.round_times.add(started_s, time.perf_counter())
        self._deliver(outputs)

    def _refuse_for_good(self) -> None:
        """Whoever booked before the failure may still submit."""
        while True:
            item = self._inbox.get()
            if isinstance(item, _Submit):
                item.pending.put_soon(item.index, EngineFailedError(self.failure or ""))
            elif isinstance(item, _Call) and item.done.set_running_or_notify_cancel():
                item.done.set_exception(EngineFailedError(self.failure or ""))
            elif isinstance(item, _Stop | _Wake) and self._num_open == 0:
                return

    def _read_inbox(self) -> None:
        while not self._engine.has_work or not self._inbox.empty():
            self._handle(self._inbox.get())  # no name for it here: while there is nothing to do it would be kept
            if self._stopping and self._num_open == 0:
                return

    def _handle(self, item: _Submit | _Cancel | _Call | _Stop | _Wake) -> None:
        if isinstance(item, _Submit):
            self._submit(item)
        elif isinstance(item, _Cancel):
            self._cancel(item)
        elif isinstance(item, _Call):
            item.run(self._engine)
        elif isinstance(item, _Stop):
            self._stopping = True

    def _submit(self, item: _Submit) -> None:
        decode_request = item.decode_request
        try:
            self._engine.submit(
                item.request_id,
                decode_request.prompt_ids,
                decode_request.params,
                variant=decode_request.variant,
                draft_of=decode_request.draft_of,
            )
        except EdaError as error:
            item.pending.put_soon(item.index, error)
            return
        trace = RequestTrace(self.counts[decode_request.uid, decode_request.pack], item.at_s, time.perf_counter())
        self._running[item.request_id] = _Running(decode_request, item.pending, item.index, trace)

    def _cancel(self, item: _Cancel) -> None:
        if item.request_id in self._running:
            self._running[item.request_id].trace.reason = item.reason
            self._engine.cancel(item.request_id)

    def _deliver(self, outputs: Sequence[StepOutput]) -> None:
        """Count and hand over what a round gave, in one call per event loop."""
        now_s = time.perf_counter()
        posts: defaultdict[asyncio.AbstractEventLoop, list[tuple[PendingAnswers, int, StepOutput | EdaError]]]
        posts = defaultdict(list)
        for output in outputs:
            running = self._running[output.request_id]
            running.trace.add(output, now_s)
            if output.finish_reason is not None:
                del self._running[output.request_id]
            failed = output.finish_reason == "error"
            item = EdaError(output.error or "decoding failed") if failed else output
            posts[running.pending.loop].append((running.pending, running.index, item))
        for loop, items in posts.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_put_all, items)


def _put_all(items: Sequence[tuple[PendingAnswers, int, StepOutput | EdaError]]) -> None:
    for pending, index, item in items:
        pending.put(index, item)
