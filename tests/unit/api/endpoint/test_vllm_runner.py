"""Requests through the vLLM runner, over a source that hands out vLLM's kind of outputs when the test says so.

The real source is tested in `tests/vllm`; here is what must hold whatever vLLM does: places, counts, swaps, failures.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from api.endpoint.engines.pending_answers import DecodeRequest, PendingAnswers
from api.endpoint.engines.runner import EngineFailedError
from api.endpoint.engines.vllm_runner import EngineRestartingError, Loaded, LoraAdapter, Start, VllmRunner
from eda_service.decoding.request import SamplingParams
from eda_service.decoding.vllm_shaping import vllm_shaping
from eda_service.errors import ContextLengthError, EdaError, OverloadedError, UnsupportedParameterError

GREEDY = SamplingParams(max_new_tokens=8)
TIMES = SimpleNamespace(queued_ts=1.0, scheduled_ts=1.5, first_token_ts=1.75)


def output(ids: list[int], finish_reason: str | None = None) -> Any:
    answer = SimpleNamespace(token_ids=ids, logprobs=None, finish_reason=finish_reason)
    return SimpleNamespace(request_id="r", outputs=[answer], metrics=TIMES, prompt_logprobs=None)


class Source:
    """Answers every request with the same outputs, one for each `allow`."""

    def __init__(self, outputs: list[Any]) -> None:
        self._outputs, self._allowed = outputs, asyncio.Semaphore(0)
        self.is_dead = False
        self.num_aborted = 0
        self.has_ended = asyncio.Event()
        self.fails: Exception | None = None
        self.adapters: list[LoraAdapter | None] = []

    def allow(self, count: int = 1) -> None:
        for _ in range(count):
            self._allowed.release()

    async def generate(
        self, prompt_ids: list[int], params: Any, stops: Any, vocab_size: int, request_id: str, adapter: Any = None
    ) -> AsyncGenerator[Any]:
        self.adapters.append(adapter)
        try:
            for each in self._outputs:
                await self._allowed.acquire()
                if self.fails is not None:
                    raise self.fails
                yield each
        except asyncio.CancelledError:
            self.num_aborted += 1
            raise

    async def add_adapter(self, adapter: LoraAdapter) -> None:
        raise AssertionError("nothing here asks for it")

    async def call(self, method: str, *arguments: str) -> None:
        raise AssertionError("nothing here asks for it")

    async def shutdown(self) -> None:
        self.has_ended.set()


def loaded(source: Source, *, num_draft_tokens: int = 3, on_cpu: bool = True) -> Loaded:
    return Loaded(source, num_draft_tokens, frozenset({2}), vocab_size=100, max_model_len=64, on_cpu=on_cpu)


def starting(brings: Source | Exception) -> Start:
    async def start() -> Loaded:
        if isinstance(brings, Exception):
            raise brings
        return loaded(brings)

    return start


def runner_on(source: Source, **settings: Any) -> VllmRunner:
    made = VllmRunner(max_running=2, max_waiting=1)
    made.use(loaded(source, **settings))
    return made


def start(runner: VllmRunner, *, pack: str = "p@1", params: SamplingParams = GREEDY) -> PendingAnswers:
    pending = runner.book(1, timeout_s=10.0)
    pending.start([DecodeRequest("m", [5, 6, 7], params, pack=pack)])
    return pending


async def read(pending: PendingAnswers) -> list[tuple[list[int], int]]:
    """Tokens and accepted tokens of each step, to the end."""
    found = []
    while True:
        for _, step in await pending.take():
            found.append((step.new_token_ids, step.num_accepted))
            if step.finish_reason is not None:
                return found


def test_steps_are_counted_as_our_engine_counts_them() -> None:
    """Prefill 1 token; rounds of 3 and 1; and two rounds that came as one output of 6 with K = 3."""

    async def check() -> None:
        source = Source([output([9]), output([1, 2, 3]), output([4]), output([1] * 6, "length")])
        runner = runner_on(source)
        with start(runner) as pending:
            source.allow(4)
            assert await read(pending) == [([9], 0), ([1, 2, 3], 2), ([4], 0), ([1] * 4, 3), ([1] * 2, 1)]
        counts = runner.counts["m", "p@1"]
        assert (counts.num_prompt_tokens, counts.num_new_tokens) == (3, 11)
        assert (counts.num_rounds, counts.num_drafts, counts.num_draft_tokens) == (4, 4, 12)
        assert counts.num_accepted_tokens == 2 + 0 + 3 + 1
        assert counts.accepted_at == [3, 2, 1]
        assert counts.tried_at == [4, 3, 2]
        assert dict(counts.finished) == {"length": 1}
        assert (counts.queue_s.total, counts.prefill_s.total) == pytest.approx((0.5, 0.25), abs=0.05)
        assert runner.num_open == 0

    asyncio.run(check())


def test_a_request_is_sent_with_the_adapter_of_its_variant() -> None:
    async def check() -> None:
        source = Source([output([9], "stop")])
        runner, math = runner_on(source), LoraAdapter("math", 1, Path("math"))
        assert runner._loaded is not None
        runner._loaded.adapters["dep_math"] = math
        with runner.book(2, timeout_s=10.0) as pending:
            pending.start(
                [
                    DecodeRequest("a", [5], GREEDY, variant="dep_math"),
                    DecodeRequest("b", [5], GREEDY, variant="dep_other"),
                ]
            )
            source.allow(2)
            await pending.take()
        assert sorted(map(str, source.adapters)) == sorted([str(math), "None"])

    asyncio.run(check())


def test_without_a_draft_rounds_propose_nothing() -> None:
    async def check() -> None:
        source = Source([output([9]), output([1]), output([2], "stop")])
        runner = runner_on(source, num_draft_tokens=0)
        with start(runner) as pending:
            source.allow(3)
            await read(pending)
        counts = runner.counts["m", "p@1"]
        assert (counts.num_rounds, counts.num_drafts, counts.num_draft_tokens, counts.tried_at) == (2, 0, 0, [])

    asyncio.run(check())


def test_leaving_aborts_the_request_whether_it_has_begun_or_not() -> None:
    async def check() -> None:
        source = Source([output([9]), output([1, 2])])
        runner = runner_on(source)
        pending = start(runner)
        source.allow()
        assert [step.new_token_ids for _, step in await pending.take()] == [[9]]
        pending.close()
        never_began = start(runner)
        never_began.close()
        await asyncio.sleep(0.01)
        assert source.num_aborted == 1
        assert dict(runner.counts["m", "p@1"].finished) == {"abort": 2}
        assert (runner.num_open, sum(runner.open_by_model().values())) == (0, 0)

    asyncio.run(check())


def test_one_too_many_is_refused() -> None:
    async def check() -> None:
        runner = runner_on(Source([]))
        with runner.book(3, timeout_s=10.0), pytest.raises(OverloadedError, match="3 of 3 places"):
            runner.book(1, timeout_s=10.0)
        runner.book(1, timeout_s=10.0).close()

    asyncio.run(check())


@pytest.mark.parametrize(
    ("settings", "params", "param"),
    [
        ({}, SamplingParams(temperature=1.0), "temperature"),
        ({"num_draft_tokens": 0}, SamplingParams(temperature=1.0, seed=3), "seed"),
        ({}, SamplingParams(logit_bias=((5, 1.0),)), "logit_bias"),
        ({"on_cpu": False}, SamplingParams(temperature=1.0, min_p=0.1), "min_p"),
        ({}, SamplingParams(min_p=0.1, repetition_penalty=1.2), None),  # greedy: vLLM does not look at min_p
        ({"num_draft_tokens": 0}, SamplingParams(temperature=1.0, min_p=0.1, logit_bias=((5, 1.0),)), None),
        ({}, SamplingParams(temperature=0.0, seed=3, max_new_tokens=8), None),
        ({"num_draft_tokens": 0}, SamplingParams(temperature=1.0, max_new_tokens=8), None),
        ({"on_cpu": False}, SamplingParams(temperature=1.0, seed=3, max_new_tokens=8), None),
    ],
)
def test_what_would_be_answered_wrongly_or_not_at_all_is_refused(
    settings: dict[str, Any], params: SamplingParams, param: str | None
) -> None:
    async def check() -> str | None:
        runner = runner_on(Source([]), **settings)
        try:
            start(runner, params=SamplingParams(**{**params.__dict__, "max_new_tokens": 8})).close()
        except UnsupportedParameterError as error:
            return error.param
        return None

    assert asyncio.run(check()) == param


def test_vllm_gets_what_shapes_an_answer_in_its_own_words() -> None:
    """Names and meanings of its `SamplingParams`; suppressed tokens are all others allowed."""
    params = SamplingParams(
        temperature=0.5, top_p=0.9, top_k=-1, repetition_penalty=1.1, suppress_token_ids=frozenset({0, 2})
    )
    assert vllm_shaping(params, 5) == {
        **{"temperature": 0.5, "top_p": 0.9, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.1},
        **{"presence_penalty": 0.0, "frequency_penalty": 0.0, "logit_bias": None, "allowed_token_ids": [1, 3, 4]},
    }
    asked = SamplingParams(logit_bias=((3, -2.0),), min_p=0.2, top_k=7, frequency_penalty=-1.0, presence_penalty=0.5)
    found = vllm_shaping(asked, 5)
    assert (found["logit_bias"], found["allowed_token_ids"]) == ({3: -2.0}, None)
    assert (found["min_p"], found["top_k"], found["frequency_penalty"]) == (0.2, 7, -1.0)
    assert found["presence_penalty"] == 0.5


def test_a_prompt_that_does_not_fit_is_refused_before_vllm_sees_it() -> None:
    async def check() -> None:
        with pytest.raises(ContextLengthError):
            start(runner_on(Source([])), params=SamplingParams(max_new_tokens=62))

    asyncio.run(check())


def test_a_restart_waits_for_running_answers_and_refuses_new_ones() -> None:
    async def check() -> None:
        old, new = Source([output([9]), output([1, 2], "stop")]), Source([output([3], "stop")])
        runner = runner_on(old)
        pending = start(runner)
        restarting = asyncio.create_task(runner.restart(starting(new), None))
        await asyncio.sleep(0.01)
        with pytest.raises(EngineRestartingError):
            runner.book(1, timeout_s=10.0)
        assert not old.has_ended.is_set()
        old.allow(2)
        assert await read(pending) == [([9], 0), ([1, 2], 1)]
        pending.close()
        await restarting
        assert old.has_ended.is_set()
        new.allow()
        with start(runner, pack="p@2") as again:
            assert await read(again) == [([3], 0)]
        assert runner.counts["m", "p@1"].num_rounds == 1
        assert runner.counts["m", "p@2"].num_rounds == 0

    asyncio.run(check())


def test_a_restart_that_brings_no_vllm_is_a_failure_until_one_does() -> None:
    async def check() -> None:
        old, new = Source([]), Source([output([3], "stop")])
        runner = runner_on(old)
        with pytest.raises(OSError, match="disk"):
            await runner.restart(starting(OSError("disk")), starting(MemoryError("memory")))
        assert old.has_ended.is_set()
        assert runner.failure is not None
        with pytest.raises(EngineFailedError):
            runner.book(1, timeout_s=10.0)
        with pytest.raises(OSError, match="disk"):
            await runner.restart(starting(OSError("disk")), starting(new))
        assert runner.failure is None
        new.allow()
        with start(runner) as pending:
            assert await read(pending) == [([3], 0)]
        runner.retire()
        assert runner.failure is None

    asyncio.run(check())


def test_a_restart_that_is_cancelled_leaves_what_runs() -> None:
    async def check() -> None:
        source = Source([output([9], "stop")])
        runner = runner_on(source)
        pending = start(runner)
        restarting = asyncio.create_task(runner.restart(starting(Source([])), None))
        await asyncio.sleep(0.01)
        restarting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await restarting
        pending.close()
        source.allow()
        with start(runner) as again:
            assert await read(again) == [([9], 0)]
        assert not source.has_ended.is_set()

    asyncio.run(check())


def test_beside_the_old_one_ends_with_its_last_answer() -> None:
    async def check() -> None:
        old, new = Source([output([9]), output([1, 2], "stop")]), Source([output([3], "stop")])
        runner = runner_on(old)
        pending = start(runner)
        runner.use(loaded(new))
        new.allow()
        with start(runner, pack="p@2") as other:
            assert await read(other) == [([3], 0)]
        assert not old.has_ended.is_set()
        old.allow(2)
        assert await read(pending) == [([9], 0), ([1, 2], 1)]
        pending.close()
        await asyncio.wait_for(old.has_ended.wait(), 1)
        assert not new.has_ended.is_set()
        runner.retire()
        await asyncio.wait_for(new.has_ended.wait(), 1)
        assert not runner.is_alive

    asyncio.run(check())


def test_a_dead_engine_fails_its_answers_and_takes_no_more() -> None:
    async def check() -> None:
        source = Source([output([9]), output([1])])
        runner = runner_on(source)
        with start(runner) as pending:
            source.allow()
            await pending.take()
            source.is_dead, source.fails = True, RuntimeError("gone")
            source.allow()
            with pytest.raises(EngineFailedError):
                await pending.take()
        assert runner.failure is not None
        with pytest.raises(EngineFailedError):
            runner.book(1, timeout_s=10.0)
        await asyncio.sleep(0)
        assert dict(runner.counts["m", "p@1"].finished) == {"error": 1}

    asyncio.run(check())


def test_one_answer_that_fails_leaves_the_engine() -> None:
    async def check() -> None:
        source = Source([output([9], "stop")])
        runner, source.fails = runner_on(source), RuntimeError("odd")
        source.allow()
        with start(runner) as pending, pytest.raises(EdaError, match="could not decode"):
            await pending.take()
        source.fails = None
        source.allow()
        with start(runner) as pending:
            assert await read(pending) == [([9], 0)]

    asyncio.run(check())
