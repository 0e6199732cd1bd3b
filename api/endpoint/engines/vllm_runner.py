"""Sends requests to vLLM and its outputs back, on the replica's event loop; vLLM decodes in processes of its own.

A pack is swapped by a new vLLM: `use` sends new requests to it while the earlier one ends its own, or `restart` ends
the earlier one first.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from api.endpoint.engines.pending_answers import DecodeRequest, PendingAnswers
from api.endpoint.engines.runner import EngineFailedError
from api.endpoint.engines.vllm_params import check_supported
from api.endpoint.engines.vllm_steps import steps_of
from api.endpoint.metrics.counts import ModelCounts, RequestTrace
from api.endpoint.metrics.round_times import RoundTimes
from eda_service.decoding.admission import check_request
from eda_service.decoding.request import RequestStats, SamplingParams, StepOutput
from eda_service.errors import EdaError, OverloadedError, ResourceError

logger = logging.getLogger(__name__)

_FAILED = "vLLM has ended and the replica is being replaced; send the request again"


class EngineRestartingError(ResourceError):
    """vLLM is being restarted with another pack."""

    code = "endpoint_unavailable"
    retryable = True


@dataclass(frozen=True)
class LoraAdapter:
    """A LoRA adapter under the name that a running vLLM gives it.

    Attributes:
        name: Name by which vLLM chooses the pack for the adapter's requests.
        number: Number of the adapter, unique in this vLLM.
    """

    name: str
    number: int
    directory: Path


class TokenSource(Protocol):
    """A running vLLM; see `vllm_server.TokenEngine`."""

    @property
    def is_dead(self) -> bool:
        """Whether its processes are gone."""

    def generate(
        self,
        prompt_ids: list[int],
        params: SamplingParams,
        stop_token_ids: frozenset[int],
        vocab_size: int,
        request_id: str,
        adapter: LoraAdapter | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Yield vLLM's `RequestOutput`s of one request, each with the new tokens alone.

        Args:
            prompt_ids: Token ids of the prompt.
            params: Sampling parameters of the request.
            stop_token_ids: Stop token ids of the target.
            vocab_size: Vocabulary size of the target.
            request_id: Id of the request, never used before.
            adapter: Adapter added to the target for this request; None: no adapter.

        Raises:
            RequestError: vLLM refuses the request.
        """

    async def add_adapter(self, adapter: LoraAdapter) -> None:
        """Load an adapter before its first request."""

    async def call(self, method: str, *arguments: str) -> None:
        """Call a method of every worker, between two steps."""

    async def shutdown(self) -> None:
        """End vLLM's processes."""


@dataclass(eq=False)
class Loaded:
    """A running vLLM, with the facts that requests to it need.

    Attributes:
        num_draft_tokens: K, the number of drafted tokens per round; 0: no draft.
        stop_token_ids: Stop token ids of the target.
        on_cpu: Whether this vLLM is the CPU build.
        adapters: Adapters by the variant whose requests use them; a variant without one uses the target as it is.
        takes_packs: Whether its draft has places for packs.
        num_open: Number of answers that run on this vLLM.
    """

    source: TokenSource
    num_draft_tokens: int
    stop_token_ids: frozenset[int]
    vocab_size: int
    max_model_len: int
    on_cpu: bool
    adapters: dict[str, LoraAdapter] = field(default_factory=dict)
    takes_packs: bool = False
    num_open: int = 0


Start = Callable[[], Awaitable[Loaded]]
"""Starts a vLLM, which takes minutes and may fail with errors of every kind."""


@dataclass
class _RunningOnVllm:
    decode_request: DecodeRequest
    pending: PendingAnswers
    index: int
    trace: RequestTrace
    stats: RequestStats
    task: asyncio.Task[None] | None = None
    has_ended: bool = False


class VllmRunner:
    """Runs one vLLM, and, while packs are swapped, also the earlier one.

    Args:
        max_running: Largest number of answers that vLLM decodes together.
        max_waiting: Largest number of answers that wait; more are refused.
    """

    def __init__(self, *, max_running: int, max_waiting: int) -> None:
        self.max_open, self._max_running = max_running + max_waiting, max_running
        self.counts: defaultdict[tuple[str, str | None], ModelCounts] = defaultdict(ModelCounts)
        self.round_times = RoundTimes()
        self._loaded: Loaded | None = None
        self._old: set[Loaded] = set()
        self._running: dict[str, _RunningOnVllm] = {}
        self._ids = itertools.count()
        self._num_open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._paused = self._retired = self._closed = False
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def failure(self) -> str | None:
        """The reason why the runner has failed for good: vLLM died, or did not start again. None while it works."""
        if self._loaded is None:
            return None if self._paused or self._closed else _FAILED
        return _FAILED if self._loaded.source.is_dead else None

    @property
    def loaded(self) -> Loaded | None:
        """The vLLM that new requests go to; None: no vLLM runs."""
        return self._loaded

    @property
    def num_open(self) -> int:
        """Number of answers that run, wait, or are booked and not yet submitted."""
        return self._num_open

    @property
    def num_running(self) -> int:
        """Number of answers in the batch; an upper bound."""
        return min(len(self._running), self._max_running)

    @property
    def is_alive(self) -> bool:
        """Whether counts may still change."""
        return not self._closed

    def open_by_model(self) -> Counter[tuple[str, str | None, bool]]:
        """Count submitted answers by deployment uid, pack, and whether they have their first token."""
        found = list(self._running.values())
        return Counter((each.decode_request.uid, each.decode_request.pack, each.trace.is_running) for each in found)

    def book(self, count: int, *, timeout_s: float) -> PendingAnswers:
        """Take places for the answers of one call; all or none. Close the returned object in every case.

        Raises:
            OverloadedError: The queue has no free place for the call.
            EngineFailedError: vLLM has ended.
            EngineRestartingError: vLLM is being restarted.
        """
        if self.failure is not None:
            raise EngineFailedError(self.failure)
        if self._loaded is None or self._paused:
            raise _restarting()
        if self._num_open + count > self.max_open:
            raise OverloadedError(
                f"{self._num_open} of {self.max_open} places are taken and {count} more are asked for; "
                "try again in a second"
            )
        self._num_open += count
        self._idle.clear()
        return PendingAnswers(self, count, timeout_s)

    def submit(self, decode_request: DecodeRequest, pending: PendingAnswers, index: int) -> str:
        """Start one of the pending answers; returns the id to cancel it by.

        Raises:
            RequestError: vLLM cannot take the request, or would answer it wrongly.
            EngineRestartingError: vLLM is being restarted.
        """
        loaded = self._loaded
        if loaded is None:
            raise _restarting()
        check_request(
            decode_request.prompt_ids,
            decode_request.params,
            vocab_size=loaded.vocab_size,
            max_tokens=loaded.max_model_len,
        )
        check_supported(decode_request.params, on_cpu=loaded.on_cpu, drafts=loaded.num_draft_tokens > 0)
        request_id, now_s = f"{id(self):x}-{next(self._ids)}", time.perf_counter()
        trace = RequestTrace(self.counts[decode_request.uid, decode_request.pack], now_s, now_s)
        running = _RunningOnVllm(decode_request, pending, index, trace, RequestStats(len(decode_request.prompt_ids)))
        self._running[request_id] = running
        loaded.num_open += 1
        running.task = asyncio.create_task(self._answer(request_id, running, loaded))
        running.task.add_done_callback(lambda _: self._left(request_id, loaded))
        return request_id

    def cancel(self, request_id: str, reason: str) -> None:
        """End an answer; vLLM frees its slot at its next step. The answer is counted under the reason."""
        running = self._running.get(request_id)
        if running is not None and running.task is not None:
            running.trace.reason = reason
            running.task.cancel()

    def release(self, count: int) -> None:
        """Give places back."""
        self._num_open -= count
        if self._num_open == 0:
            self._idle.set()
            if self._retired:
                self._close()

    async def restart(self, start: Start, before: Start | None) -> None:
        """Accept no more requests, end vLLM with its last answer, and use another one; if none starts, fail for good.

        Args:
            start: Starts the wanted vLLM.
            before: Starts the earlier vLLM again if the wanted one does not start; None: no vLLM ran before.

        Raises:
            Exception: The error that kept the wanted vLLM from starting.
        """
        self._paused = True
        try:
            await self._end_after_answers()
            self.use(await start())
        except Exception:
            if before is not None:
                await self._use_again(before)
            raise
        finally:
            self._paused = False

    async def _end_after_answers(self) -> None:
        await self._idle.wait()
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            await loaded.source.shutdown()

    async def _use_again(self, before: Start) -> None:
        try:
            self.use(await before())
        except Exception:  # `failure` says so; the error that is raised is the one of what is wanted
            logger.exception("what vLLM served before does not start again either")

    def use(self, loaded: Loaded) -> None:
        """Send new requests to this vLLM; the earlier one ends with its last answer."""
        before, self._loaded = self._loaded, loaded
        if before is not None:
            self._old.add(before)
            self._end_if_unused(before)

    def retire(self) -> None:
        """Serve the booked answers, then end vLLM."""
        self._retired = True
        if self._num_open == 0:
            self._close()

    def _close(self) -> None:
        loaded, self._loaded, self._closed = self._loaded, None, True
        if loaded is not None:
            self._end(loaded)

    def _end_if_unused(self, loaded: Loaded) -> None:
        if loaded in self._old and loaded.num_open == 0:
            self._old.discard(loaded)
            self._end(loaded)

    def _end(self, loaded: Loaded) -> None:
        task = asyncio.create_task(loaded.source.shutdown())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _answer(self, request_id: str, running: _RunningOnVllm, loaded: Loaded) -> None:
        """Decode one request and put its outputs into its pending answers."""
        decode_request, began_s = running.decode_request, time.perf_counter()
        try:
            outputs = loaded.source.generate(
                decode_request.prompt_ids,
                decode_request.params,
                loaded.stop_token_ids,
                loaded.vocab_size,
                request_id,
                loaded.adapters.get(decode_request.variant),
            )
            async for output in outputs:
                now_s = time.perf_counter()
                if running.trace.is_running:
                    self.round_times.add(began_s, now_s)
                began_s = now_s
                for step in steps_of(output, running.stats, decode_request.params, loaded.num_draft_tokens):
                    running.has_ended = step.finish_reason is not None
                    running.trace.add(step, now_s)
                    running.pending.put(running.index, step)
        except Exception as error:
            running.trace.reason = "error"
            running.pending.put(running.index, _error_of(error, loaded))

    def _left(self, request_id: str, loaded: Loaded) -> None:
        """Release a request whose task has ended, or was cancelled before it began."""
        running = self._running.pop(request_id)
        if not running.has_ended:
            running.trace.add(StepOutput(request_id, [], "cancelled", running.stats), time.perf_counter())
        loaded.num_open -= 1
        self._end_if_unused(loaded)


def _restarting() -> EngineRestartingError:
    return EngineRestartingError("vLLM is being started with another pack; send the request again in a while")


def _error_of(error: Exception, loaded: Loaded) -> EdaError:
    """Return the error that the caller is told."""
    if isinstance(error, EdaError):
        return error
    logger.error("vLLM failed", exc_info=error)
    return EngineFailedError(_FAILED) if loaded.source.is_dead else EdaError("vLLM could not decode the request")
