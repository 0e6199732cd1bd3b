"""The engine of a job inside vLLM beside the project's own: tokens, states of layers, texts that are read, a lost rank.

Each vLLM runs in a process of its own, as in a job: one process does not load two of them one after the other.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny_models import write_adapter

from eda_service.config.job import TargetSpec
from eda_service.config.vllm import VllmSpec
from eda_service.decoding.request import SamplingParams
from eda_service.engines.engine import READ, Answer, AnswerRequest, with_seeds
from eda_service.engines.own import OwnEngine
from eda_service.errors import EdaError
from eda_service.targets.load_ends import load_ends
from eda_service.targets.loader import Target, load_target

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

LAYERS = (1, 4, 8)
PROMPTS = [[5 + (7 * i + j) % 80 for j in range(3 + 5 * i)] for i in range(6)]
PARAMS = SamplingParams(max_new_tokens=20)
ROOM = 128


def serve(orders: Connection, spec: TargetSpec, ranks: int) -> None:
    """In the child: a vLLM that answers until it is told nothing more."""
    from eda_service.engines.vllm import EngineLostError, VllmEngine

    os.environ["OMP_NUM_THREADS"] = "1"
    settings = VllmSpec(enforce_eager=True, tensor_parallel_size=ranks)
    engine = VllmEngine(load_ends(spec), settings, max_tokens=ROOM, batch_size=4, captures=LAYERS, threads=1, seed=0)
    orders.send("ready")
    while True:
        order = orders.recv()
        if order is None:
            os._exit(0)
        try:
            orders.send(engine.answer(order, batch_size=4, max_tokens=ROOM, captures=LAYERS))
        except EngineLostError as error:
            orders.send(error.message)


class Child:
    """A vLLM in a process of its own."""

    def __init__(self, spec: TargetSpec, ranks: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._orders, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, spec, ranks))
        self.process.start()
        assert self._orders.poll(300)
        assert self._orders.recv() == "ready"

    def ask(self, requests: dict[str, AnswerRequest]) -> Any:
        self._orders.send(requests)
        assert self._orders.poll(120), "it answers nothing"
        return self._orders.recv()

    def close(self) -> None:
        if self.process.is_alive():
            self._orders.send(None)
        self.process.join(30)


@pytest.fixture
def start() -> Iterator[Callable[[TargetSpec, int], Child]]:
    """Children that end with the test."""
    children: list[Child] = []

    def started(spec: TargetSpec, ranks: int) -> Child:
        children.append(Child(spec, ranks))
        return children[-1]

    yield started
    for child in children:
        child.close()


def require_equal(found: dict[str, Answer], expected: dict[str, Answer]) -> None:
    assert list(found) == list(expected)
    for name, answer in expected.items():
        assert (found[name].token_ids, found[name].finish_reason) == (answer.token_ids, answer.finish_reason)
        states = found[name].states
        assert states is not None
        assert answer.states is not None
        for ours, theirs in ((states.head_in, answer.states.head_in), (states.draft_in, answer.states.draft_in)):
            difference = (ours - theirs[: len(ours)]).abs().max()
            assert difference < 1e-4 * theirs.abs().max()  # a random model's states reach from 0.001 to 100


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_answers_and_states_are_the_own_engine_s(
    family: str, deep_targets: dict[str, Target], tmp_path: Path, start: Callable[[TargetSpec, int], Child]
) -> None:
    """With an adapter, which vLLM adds and the own engine merges; written, and read as a given text."""
    model = Path(deep_targets[family].spec.model)
    adapter = write_adapter(model, tmp_path / "adapter", seed=1, std=0.05)
    spec = TargetSpec(model=str(model), adapter=str(adapter), dtype="float32")
    own, child = OwnEngine(load_target(spec)), start(spec, 1)
    requests = with_seeds(PARAMS, PROMPTS)
    expected = own.answer(requests, batch_size=4, max_tokens=ROOM, captures=LAYERS)
    require_equal(child.ask(requests), expected)
    texts = {name: AnswerRequest([*PROMPTS[int(name)], *answer.token_ids], READ) for name, answer in expected.items()}
    require_equal(child.ask(texts), own.answer(texts, batch_size=4, max_tokens=ROOM, captures=LAYERS))


def test_a_request_without_room_costs_itself_alone(
    deep_targets: dict[str, Target], start: Callable[[TargetSpec, int], Child]
) -> None:
    child = start(deep_targets["llama"].spec, 1)
    found = child.ask({"long": AnswerRequest([5] * ROOM, PARAMS), "short": AnswerRequest([5, 6], PARAMS)})
    assert list(found) == ["long", "short"]
    assert "exceed the context" in str(found["long"].error)
    assert found["short"].error is None
    assert len(found["short"].token_ids) >= 1


def test_two_ranks_answer_as_one_and_a_lost_rank_is_said_and_takes_nothing_along(
    deep_targets: dict[str, Target], start: Callable[[TargetSpec, int], Child]
) -> None:
    target = deep_targets["llama"]
    child = start(target.spec, 2)
    requests = with_seeds(PARAMS, PROMPTS)
    expected = OwnEngine(target).answer(requests, batch_size=4, max_tokens=ROOM, captures=LAYERS)
    require_equal(child.ask(requests), expected)
    ranks = [each for each in psutil.Process(child.process.pid).children(recursive=True) if "VLLM" in each.name()]
    assert len(ranks) == 2
    ranks[1].kill()
    said = child.ask(requests)
    assert isinstance(said, str)
    assert "vLLM ended while it answered 6 requests" in said
    child.process.kill()
    _, alive = psutil.wait_procs(ranks, timeout=30)
    assert not alive


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`", "ignore:Setting `save_embedding_layers`")
def test_what_vllm_cannot_add_is_refused(deep_targets: dict[str, Target], tmp_path: Path) -> None:
    """An adapter of the head, before anything is started."""
    model = Path(deep_targets["llama"].spec.model)
    adapter = write_adapter(model, tmp_path / "head", seed=0, std=0.1, target_modules=["lm_head"])
    with pytest.raises(EdaError, match="changes lm_head, which vLLM does not add"):
        load_ends(TargetSpec(model=str(model), adapter=str(adapter), dtype="float32"))
