"""The thread around the engine: concurrent answers, refusals, cancelled ones, deadlines, failure, counts."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from live_endpoint import Brake

from api.endpoint.engines.pending_answers import DecodeRequest, PendingAnswers
from api.endpoint.engines.runner import EngineFailedError, EngineRunner
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.request import RequestStats, SamplingParams, StepOutput
from eda_service.drafts.draft import Draft
from eda_service.drafts.head import DraftHead
from eda_service.errors import DeadlineExceededError, OverloadedError, RequestError
from eda_service.targets.loader import Target

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]


@pytest.fixture
def runner(tiny_target: Target) -> Iterator[EngineRunner]:
    made = EngineRunner(Engine(tiny_target, max_batch=2, max_tokens=128), num_threads=1, max_waiting=1)
    yield made
    made.retire()
    made.join(5)
    assert not made._thread.is_alive()


async def collect(
    runner: EngineRunner, prompts: list[list[int]], params: SamplingParams, *, timeout_s: float = 60.0
) -> list[list[int]]:
    """All answers of one call."""
    found: list[list[int]] = [[] for _ in prompts]
    with runner.book(len(prompts), timeout_s=timeout_s) as pending:
        pending.start([DecodeRequest("m", prompt, params) for prompt in prompts])
        while pending.num_open:
            for index, output in await pending.take():
                found[index] += output.new_token_ids
    return found


def alone(target: Target, params: SamplingParams) -> list[list[int]]:
    engine = Engine(target, max_batch=1, max_tokens=128)
    for i, prompt in enumerate(PROMPTS):
        engine.submit(str(i), prompt, params)
    done = run_to_end(engine)
    return [[t for o in done[str(i)] for t in o.new_token_ids] for i in range(len(PROMPTS))]


def test_answers_side_by_side_are_what_they_would_be_alone(runner: EngineRunner, tiny_target: Target) -> None:
    params = SamplingParams(max_new_tokens=20)

    async def together() -> list[list[list[int]]]:
        return await asyncio.gather(*(collect(runner, [prompt], params) for prompt in PROMPTS))

    wanted = alone(tiny_target, params)
    assert [found for (found,) in asyncio.run(together())] == wanted
    assert asyncio.run(collect(runner, PROMPTS, params)) == wanted


def test_one_too_many_is_refused_and_room_comes_back(runner: EngineRunner) -> None:
    params = SamplingParams(max_new_tokens=8)

    async def scenario() -> list[object]:
        four = [collect(runner, [[5, 6]], params) for _ in range(4)]
        results = await asyncio.gather(*four, return_exceptions=True)
        with pytest.raises(OverloadedError):
            runner.book(4, timeout_s=1)
        return [*results, await collect(runner, PROMPTS, params)]

    results = asyncio.run(scenario())
    assert [type(result) for result in results[:4]].count(OverloadedError) == 1
    assert isinstance(results[4], list)
    assert runner.num_open == 0


def test_a_refused_answer_does_not_harm_the_next(runner: EngineRunner) -> None:
    async def scenario() -> list[list[int]]:
        with pytest.raises(RequestError) as caught:
            await collect(runner, [[5], [10_000]], SamplingParams(max_new_tokens=100, ignore_eos=True))
        assert caught.value.param == "prompt"
        return await collect(runner, [[5]], SamplingParams(max_new_tokens=3, ignore_eos=True))

    assert [len(found) for found in asyncio.run(scenario())] == [3]


def test_leaving_early_frees_the_slot(runner: EngineRunner) -> None:
    async def scenario() -> None:
        for _ in range(10):
            with runner.book(3, timeout_s=60) as pending:
                pending.start([DecodeRequest("m", [5, 6], SamplingParams(max_new_tokens=100, ignore_eos=True))] * 3)
                await pending.take()
            assert runner.num_open == 0

    asyncio.run(scenario())
    assert asyncio.run(collect(runner, [[5]], SamplingParams(max_new_tokens=3, ignore_eos=True)))
    assert runner.num_running == 0
    assert runner.counts["m", None].finished == {"abort": 30, "length": 1}


def test_a_deadline_ends_the_booking_after_what_came_before(tiny_target: Target) -> None:
    engine = Engine(tiny_target, max_batch=1, max_tokens=128)
    brake = Brake(engine)
    runner = EngineRunner(engine, num_threads=1, max_waiting=1)

    async def scenario() -> None:
        with runner.book(1, timeout_s=0.3) as pending:
            pending.start([DecodeRequest("m", [5], SamplingParams(max_new_tokens=50, ignore_eos=True))])
            brake.allow(2)
            await asyncio.sleep(0.5)
            assert len(await pending.take()) == 3  # the first token, and one of each round
            with pytest.raises(DeadlineExceededError, match=r"0\.3 s"):
                await pending.take()
        brake.allow(1)

    asyncio.run(scenario())
    runner.retire()
    brake.allow(2)
    runner.join(5)
    assert (engine.has_work, runner.num_open) == (False, 0)


def test_a_retired_runner_serves_what_is_booked(tiny_target: Target) -> None:
    """Places are taken before a prompt is read; the pair may be exchanged in between."""
    runner = EngineRunner(Engine(tiny_target, max_batch=2, max_tokens=128), num_threads=1, max_waiting=1)
    params = SamplingParams(max_new_tokens=10)

    async def scenario() -> list[int]:
        with runner.book(1, timeout_s=10) as pending:
            runner.retire()
            await asyncio.sleep(0.2)
            pending.start([DecodeRequest("m", PROMPTS[0], params)])
            found: list[int] = []
            while pending.num_open:
                found += [token for _, output in await pending.take() for token in output.new_token_ids]
            return found

    assert asyncio.run(scenario()) == alone(tiny_target, params)[0]
    runner.join(5)
    assert not runner._thread.is_alive()


def test_a_failed_engine_tells_everyone(tiny_target: Target) -> None:
    engine = Engine(tiny_target, max_batch=2, max_tokens=128)

    def explode() -> list[StepOutput]:
        raise ValueError("the kernel is gone")

    engine.step = explode  # type: ignore[method-assign]  # the one thing that cannot be had from a healthy engine
    runner = EngineRunner(engine, num_threads=1, max_waiting=2)
    params = SamplingParams(max_new_tokens=4)

    async def scenario() -> list[object]:
        with runner.book(1, timeout_s=10) as late:
            both = (collect(runner, [[5]], params) for _ in range(2))
            results: list[object] = list(await asyncio.gather(*both, return_exceptions=True))
            late.start([DecodeRequest("m", [5], params)])
            with pytest.raises(EngineFailedError):
                await late.take()
        with pytest.raises(EngineFailedError):
            runner.book(1, timeout_s=10)
        return results

    assert [type(result) for result in asyncio.run(scenario())] == [EngineFailedError] * 2
    assert runner.failure is not None
    runner.retire()
    runner.join(5)
    assert not runner._thread.is_alive()


def test_a_call_that_nobody_waits_for_any_more_does_not_end_the_engine(runner: EngineRunner) -> None:
    async def scenario() -> list[list[int]]:
        begun, go_on = threading.Event(), threading.Event()

        def hold(_engine: Engine) -> None:
            begun.set()
            go_on.wait(10)

        first = asyncio.create_task(runner.call(hold))
        await asyncio.to_thread(begun.wait, 10)
        waiting = asyncio.create_task(runner.call(lambda engine: engine.max_batch))
        await asyncio.sleep(0)
        waiting.cancel()
        first.cancel()
        await asyncio.sleep(0)
        go_on.set()
        assert await runner.call(lambda engine: engine.max_batch) == 2
        return await collect(runner, PROMPTS, SamplingParams(max_new_tokens=4))

    assert all(len(answer) == 4 for answer in asyncio.run(scenario()))
    assert runner.failure is None


def test_counts_are_the_sums_of_what_the_engine_says(
    tiny_target: Target, make_fitted_draft: Callable[[str], Draft]
) -> None:
    """Oracle: the statistics of the same answers decoded without a runner."""
    settings: dict[str, Any] = {"num_draft_tokens": 4, "max_batch": 2, "max_tokens": 128}

    def engine() -> Engine:
        return Engine(tiny_target, make_fitted_draft("llama"), DraftHead(tiny_target.lm_head, None), **settings)

    params = SamplingParams(max_new_tokens=25)
    plain = engine()
    for i, prompt in enumerate(PROMPTS):
        plain.submit(str(i), prompt, params)
    stats = [outputs[-1].stats for outputs in run_to_end(plain).values()]
    runner = EngineRunner(engine(), num_threads=1, max_waiting=1)
    asyncio.run(collect(runner, PROMPTS, params))
    assert 0.0 < runner.round_times.mean_s() < 60.0
    counts = runner.counts["m", None]
    runner.retire()
    runner.join(5)
    assert counts.num_prompt_tokens == sum(map(len, PROMPTS))
    assert counts.num_new_tokens == sum(each.num_new_tokens for each in stats)
    assert counts.num_drafts == counts.num_rounds == sum(each.num_rounds for each in stats)
    assert counts.num_draft_tokens == sum(each.num_draft_tokens for each in stats)
    assert counts.num_accepted_tokens == sum(counts.accepted_at) == sum(each.num_accepted_tokens for each in stats) > 0
    wanted = [sum(sum(each.accepted_histogram[place + 1 :]) for each in stats) for place in range(4)]
    assert counts.accepted_at == wanted[: len(counts.accepted_at)]
    assert not any(wanted[len(counts.accepted_at) :])
    assert sum(counts.finished.values()) == counts.request_s.num == counts.queue_s.num == counts.prefill_s.num == 3
    assert counts.first_token_s.num == 3
    assert counts.inter_token_s.num == counts.num_new_tokens - 3
    assert counts.queue_s.total > 0  # the third waited for a slot
    assert 0 < counts.prefill_s.total + counts.inter_token_s.total < counts.request_s.total


class Nobody:
    """A queue that decodes nothing."""

    def submit(self, decode_request: DecodeRequest, pending: PendingAnswers, index: int) -> str:
        return str(index)

    def cancel(self, request_id: str, reason: str) -> None: ...

    def release(self, count: int) -> None: ...


@pytest.mark.parametrize("finish_reason", [None, "length"])
def test_a_reader_that_waits_finds_all_in_one_piece_and_an_end_wakes_it(finish_reason: str | None) -> None:
    async def scenario() -> tuple[int, float]:
        with PendingAnswers(Nobody(), 1, timeout_s=60) as pending:
            pending.start([DecodeRequest("m", [1], SamplingParams())])
            loop, began = asyncio.get_running_loop(), time.perf_counter()
            stats = RequestStats(num_prompt_tokens=1)
            loop.call_later(0.01, pending.put, 0, StepOutput("0", [1], None, stats))
            loop.call_later(0.05, pending.put, 0, StepOutput("0", [2], finish_reason, stats))
            taken = await pending.take(1.0)
            return len(taken), time.perf_counter() - began

    num_taken, seconds = asyncio.run(scenario())
    assert num_taken == 2
    assert seconds < 0.9 if finish_reason else seconds >= 1.0
