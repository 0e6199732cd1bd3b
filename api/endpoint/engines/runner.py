"""One thread owns one engine; requests come from an event loop and their outputs go back to it.

The thread blocks on its inbox while there is nothing to decode, and otherwise looks into it between two rounds, so that
requests join and leave the batch at the next round. All outputs of a round are handed over in one call.
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
        """Hand the result, or an error raised on purpose, to the waiting caller, who may have gone."""
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
        engine: Engine to run; from now on only the runner's thread uses it.
        num_threads: Number of CPU threads of the engine.
        max_waiting: Largest number of requests that wait for a slot; more are refused.

    Attributes:
        counts: Totals by deployment uid and pack.
        round_times: Times of the newest rounds.
        failure: Reason why the engine failed; None while it works.
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
        """Number of answers that run, wait, or are booked and not yet submitted."""
        return self._num_open

    @property
    def num_running(self) -> int:
        """Number of answers in the batch."""
        return self._engine.num_running

    @property
    def num_waiting(self) -> int:
        """Number of answers without a slot yet."""
        return max(0, self._num_open - self._engine.num_running)

    @property
    def is_alive(self) -> bool:
        """Whether counts may still change."""
        return self._thread.is_alive()

    def open_by_model(self) -> Counter[tuple[str, str | None, bool]]:
        """Count submitted answers by deployment uid, pack, and whether they have a slot."""
        found = list(self._running.values())
        return Counter((each.decode_request.uid, each.decode_request.pack, each.trace.is_running) for each in found)

    def book(self, count: int, *, timeout_s: float) -> PendingAnswers:
        """Take places for the answers of one call; all or none. Close the returned object in every case.

        Args:
            count: Number of answers.
            timeout_s: Seconds after which the answers end with a DeadlineExceededError.

        Raises:
            OverloadedError: The queue has no free place for the call.
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
        """Run a function with the engine on its thread, between two rounds.

        Raises:
            EngineFailedError: The engine has failed.
            EdaError: The function raised it.
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
        """End an answer; its slot is free at the next round. The answer is counted under the reason."""
        self._inbox.put(_Cancel(request_id, reason))

    def release(self, count: int) -> None:
        """Give places back."""
        self._num_open -= count
        if self._retired and self._num_open == 0:
            self._inbox.put(_Wake())

    def retire(self) -> None:
        """Serve the booked answers, then end the thread and free the engine."""
        self._retired = True
        self._inbox.put(_Stop())

    def join(self, timeout_s: float) -> None:
        """Wait until the thread of a retired runner has ended."""
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
        """Refuse answers that are submitted after the failure; they may have been booked before it."""
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
        """Count the outputs of a round and hand them over, in one call per event loop."""
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
