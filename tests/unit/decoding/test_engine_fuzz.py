"""No request ends the engine for the others: any parameters over odd models are answered or refused, one by one."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from engine_helpers import speculative
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import random_draft, write_target

from eda_service.config.job import TargetSpec, TreeConfig
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.request import SamplingParams, StepOutput
from eda_service.errors import RequestError
from eda_service.targets.loader import Target, load_target

NUMBERS = st.integers(-3, 140) | st.sampled_from([2**31, -(2**31), 10**9])
PARAMS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 1e-6, 0.7, 2.0, -1.0, 3.0, float("nan"), float("inf")]),
        "top_p": st.sampled_from([1.0, 1e-9, 0.5, 0.0, 2.0, float("nan")]),
        "max_new_tokens": st.integers(-1, 12) | st.just(10**6),
        "seed": st.none() | st.integers(-(2**63), 2**63 - 1),
        "stop_token_ids": st.frozensets(NUMBERS, max_size=4),
        "speculate": st.booleans(),
        "ignore_eos": st.booleans(),
        "min_new_tokens": st.integers(-1, 14),
        "num_logprobs": st.none() | st.integers(-1, 21),
        "score_prompt": st.booleans(),
        "top_k": st.integers(-2, 130),
        "min_p": st.sampled_from([0.0, 0.3, 1.0, 2.0, float("nan")]),
        "repetition_penalty": st.sampled_from([1.0, 1.5, 1e-30, 1e30, 0.0, float("inf")]),
        "presence_penalty": st.sampled_from([0.0, 2.0, -3.0]),
        "frequency_penalty": st.sampled_from([0.0, -2.0, float("nan")]),
        "logit_bias": st.lists(st.tuples(NUMBERS, st.sampled_from([-100.0, 3.0, 200.0])), max_size=3).map(tuple),
        "suppress_token_ids": st.frozensets(NUMBERS, max_size=4),
    }
)
REQUESTS = st.lists(st.tuples(st.lists(NUMBERS, max_size=12), PARAMS), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def odd_target(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Target]:
    """A target as people have them: stops beyond its logits, no stop at all, every token a stop."""

    @cache
    def make(kind: str) -> Target:
        stops = {"stops beyond the logits": [2, 112, 10**6], "no stop": [], "every token": list(range(112))}[kind]
        directory = write_target(tmp_path_factory.mktemp("odd"), "llama")
        (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
        return load_target(TargetSpec(model=str(directory), dtype="float32"))

    return make


@pytest.mark.parametrize("kind", ["stops beyond the logits", "no stop", "every token"])
@pytest.mark.parametrize("tree", [None, TreeConfig(size=5, depth=3, width=2)], ids=["chains", "trees"])
def test_every_request_ends_and_spoils_no_other(
    kind: str, tree: TreeConfig | None, odd_target: Callable[[str], Target]
) -> None:
    target = odd_target(kind)
    engine = speculative(target, random_draft(target), tree=tree)
    bystander = _alone(engine)

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(REQUESTS)
    def fuzz(requests: list[tuple[list[int], dict[str, object]]]) -> None:
        engine.submit("bystander", [30, 40, 50], SamplingParams(max_new_tokens=6))
        accepted = []
        for i, (ids, params) in enumerate(requests):
            try:
                engine.submit(str(i), ids, SamplingParams(**params))  # type: ignore[arg-type]
            except RequestError:
                continue
            accepted.append(str(i))
        done = run_to_end(engine)
        assert sorted(done) == sorted([*accepted, "bystander"])
        assert all(outputs[-1].finish_reason in {"stop", "length"} for outputs in done.values())
        assert _tokens(done["bystander"]) == bystander

    fuzz()


def _alone(engine: Engine) -> list[int]:
    engine.submit("bystander", [30, 40, 50], SamplingParams(max_new_tokens=6))
    return _tokens(run_to_end(engine)["bystander"])


def _tokens(outputs: list[StepOutput]) -> list[int]:
    return [token for output in outputs for token in output.new_token_ids]


def test_the_vocabulary_is_what_has_a_logit_and_an_embedding(tmp_path: Path) -> None:
    target = load_target(TargetSpec(model=str(write_target(tmp_path, "llama")), dtype="float32"))
    assert target.vocab_size == 112
    engine = Engine(target, max_tokens=64)
    with pytest.raises(RequestError, match=r"lies outside 0\.\.111"):
        engine.submit("r", [112], SamplingParams())
