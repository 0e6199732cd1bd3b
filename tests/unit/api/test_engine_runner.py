"""The thread around the engine: concurrent requests, refusals, cancelled ones, failure."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from api.serving.runner import EngineRunner
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.request import SamplingParams, StepOutput
from eda_service.errors import EdaError, OverloadedError, RequestError
from eda_service.target.loader import Target

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]


@pytest.fixture
def runner(tiny_target: Target) -> Iterator[EngineRunner]:
    made = EngineRunner(Engine(tiny_target, max_batch=2, max_tokens=128), num_threads=1, max_waiting=1)
    yield made
    made.retire()
    made.join(5)


async def collect(runner: EngineRunner, prompt: list[int], params: SamplingParams) -> list[int]:
    return [token async for output in runner.generate(prompt, params) for token in output.new_token_ids]


def test_requests_side_by_side_get_what_they_would_get_alone(runner: EngineRunner, tiny_target: Target) -> None:
    params = SamplingParams(max_new_tokens=20)

    async def together() -> list[list[int]]:
        return await asyncio.gather(*(collect(runner, prompt, params) for prompt in PROMPTS))

    engine = Engine(tiny_target, max_batch=1, max_tokens=128)
    for i, prompt in enumerate(PROMPTS):
        engine.submit(str(i), prompt, params)
    alone = {i: [t for o in outputs for t in o.new_token_ids] for i, outputs in run_to_end(engine).items()}
    assert asyncio.run(together()) == [alone[str(i)] for i in range(len(PROMPTS))]


def test_one_too_many_is_refused_and_room_comes_back(runner: EngineRunner) -> None:
    params = SamplingParams(max_new_tokens=8)

    async def scenario() -> list[object]:
        four = [collect(runner, [5, 6], params) for _ in range(4)]
        results = await asyncio.gather(*four, return_exceptions=True)
        return [*results, await collect(runner, [5, 6], params)]

    results = asyncio.run(scenario())
    assert [type(result) for result in results[:4]].count(OverloadedError) == 1
    assert isinstance(results[4], list)


def test_a_refused_request_does_not_harm_the_next(runner: EngineRunner) -> None:
    async def scenario() -> list[int]:
        with pytest.raises(RequestError) as caught:
            await collect(runner, [10_000], SamplingParams())
        assert caught.value.param == "prompt"
        return await collect(runner, [5], SamplingParams(max_new_tokens=3))

    assert 1 <= len(asyncio.run(scenario())) <= 3


def test_leaving_early_frees_the_slot(runner: EngineRunner) -> None:
    async def scenario() -> int:
        for _ in range(10):
            stream = runner.generate([5, 6], SamplingParams(temperature=1.0, max_new_tokens=100))
            await anext(stream)
            await stream.aclose()
        return runner.num_open

    assert asyncio.run(scenario()) == 0


def test_a_failed_engine_tells_every_request(tiny_target: Target) -> None:
    engine = Engine(tiny_target, max_batch=2, max_tokens=128)

    def explode() -> list[StepOutput]:
        raise ValueError("the kernel is gone")

    engine.step = explode  # type: ignore[method-assign]  # the one thing that cannot be had from a healthy engine
    runner = EngineRunner(engine, num_threads=1, max_waiting=1)

    async def scenario() -> list[object]:
        both = (collect(runner, [5], SamplingParams(max_new_tokens=4)) for _ in range(2))
        return await asyncio.gather(*both, return_exceptions=True)

    results = asyncio.run(scenario())
    assert [str(result) for result in results if isinstance(result, EdaError)] == [runner.failure] * 2
    assert runner.failure is not None
