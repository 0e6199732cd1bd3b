"""Log-probabilities of answers and prompts, held-back stops, ignored stops, and requests that only read a prompt.

Oracle: transformers' logits of prompt and answer in one forward, log-softmax in float64.

Shapes: T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from engine_helpers import DraftMaker, answer, decode, make_prompts, speculative
from torch import Tensor
from transformers import PreTrainedModel

from eda_service.config.job import TreeConfig
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.request import SamplingParams, StepOutput, TokenLogprobs
from eda_service.errors import RequestError
from eda_service.targets.loader import Target

ModelMaker = Callable[[str], PreTrainedModel]
TREE = TreeConfig(size=8, depth=3, width=3)


def oracle_logprobs(model: PreTrainedModel, ids: list[int]) -> Tensor:
    """(T - 1, V): row t is the distribution of token t + 1."""
    logits_TV = model(torch.tensor([ids])).logits[0, :-1]
    return torch.log_softmax(logits_TV.double(), dim=-1)


def check(found: list[TokenLogprobs], tokens: list[int], wanted_TV: Tensor, num_top: int) -> None:
    assert len(found) == len(tokens) == len(wanted_TV)
    for each, token, wanted_V in zip(found, tokens, wanted_TV, strict=True):
        assert each.logprob == pytest.approx(float(wanted_V[token]), abs=1e-4)
        values, ids = wanted_V.topk(num_top) if num_top else (wanted_V[:0], torch.empty(0))
        assert [token for token, _ in each.top] == ids.tolist()
        assert [value for _, value in each.top] == pytest.approx(values.tolist(), abs=1e-4)


def collected(outputs: list[StepOutput]) -> list[TokenLogprobs]:
    return [each for output in outputs for each in output.logprobs or ()]


def engines(target: Target, make_draft: DraftMaker, kind: str) -> Engine:
    if kind == "autoregressive":
        return Engine(target, max_batch=4, max_tokens=120)
    return speculative(target, make_draft("llama"), tree=TREE if kind == "tree" else None)


@pytest.mark.parametrize("kind", ["autoregressive", "chain", "tree"])
def test_logprobs_are_the_targets_own(
    tiny_target: Target, make_fitted_draft: DraftMaker, reference_model: ModelMaker, kind: str
) -> None:
    """Rows that ask for 0, 3 and 20 tops beside one that does not; temperature and nucleus leave them as they are."""
    prompts = make_prompts(4, seed=3)
    params = [
        SamplingParams(max_new_tokens=20, num_logprobs=0),
        SamplingParams(max_new_tokens=20, temperature=1.2, top_p=0.8, seed=1, num_logprobs=3),
        SamplingParams(max_new_tokens=20),
        SamplingParams(max_new_tokens=20, temperature=0.7, seed=2, num_logprobs=20),
    ]
    engine = engines(tiny_target, make_fitted_draft, kind)
    for i, (ids, each) in enumerate(zip(prompts, params, strict=True)):
        engine.submit(str(i), ids, each)
    done = run_to_end(engine)
    for i in (0, 1, 3):
        tokens = answer(done[str(i)])
        wanted_TV = oracle_logprobs(reference_model("llama"), prompts[i] + tokens)[-len(tokens) :]
        check(collected(done[str(i)]), tokens, wanted_TV, params[i].num_logprobs or 0)
    assert all(output.logprobs is None for output in done["2"])
    assert all(output.prompt_logprobs is None for outputs in done.values() for output in outputs)


@pytest.mark.parametrize("kind", ["chain", "tree"])
def test_asking_changes_no_token(tiny_target: Target, make_fitted_draft: DraftMaker, kind: str) -> None:
    prompts = make_prompts(4, seed=4)
    plain = [SamplingParams(max_new_tokens=20, temperature=0.3 * i, seed=i) for i in range(4)]
    asked = [
        SamplingParams(max_new_tokens=20, temperature=0.3 * i, seed=i, num_logprobs=5, score_prompt=True)
        for i in range(4)
    ]
    assert decode(engines(tiny_target, make_fitted_draft, kind), prompts, plain) == decode(
        engines(tiny_target, make_fitted_draft, kind), prompts, asked
    )


@pytest.mark.parametrize("length", [1, 2, 64, 65, 66, 100])
def test_prompts_are_scored_without_an_answer(tiny_target: Target, reference_model: ModelMaker, length: int) -> None:
    """Lengths around the block in which a prompt is scored; beside a longer prompt, so that one is padded."""
    ids = torch.randint(3, 112, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    engine = Engine(tiny_target, max_batch=4, max_tokens=120)
    engine.submit("r", ids, SamplingParams(max_new_tokens=0, num_logprobs=2, score_prompt=True))
    engine.submit("other", [*ids, 5], SamplingParams(max_new_tokens=4))
    done = run_to_end(engine)
    (output,) = done["r"]
    assert (output.new_token_ids, output.finish_reason, output.stats.num_new_tokens) == ([], "length", 0)
    assert output.prompt_logprobs is not None
    check(output.prompt_logprobs, ids[1:], oracle_logprobs(reference_model("llama"), ids), 2)
    assert output.logprobs == []
    alone = decode(Engine(tiny_target, max_tokens=120), [[*ids, 5]], [SamplingParams(max_new_tokens=4)])
    assert answer(done["other"]) == alone[0]


@pytest.mark.parametrize("kind", ["autoregressive", "chain", "tree"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_stop_cannot_come_too_early(
    tiny_target: Target, make_fitted_draft: DraftMaker, kind: str, temperature: float
) -> None:
    """Half of the vocabulary stops: without the floor most answers end early; with it none has a stop before it, and
    speculation changes nothing (a sampled chain spends its draws in another order, so its tokens may differ).
    """
    stops = frozenset(range(3, 60))
    prompts = make_prompts(12, seed=5)

    def run(floor: int, kind: str) -> list[list[int]]:
        params = [
            SamplingParams(
                temperature=temperature, max_new_tokens=20, min_new_tokens=floor, stop_token_ids=stops, seed=i
            )
            for i in range(12)
        ]
        return decode(engines(tiny_target, make_fitted_draft, kind), prompts, params)

    assert sum(len(tokens) < 7 for tokens in run(0, kind)) > 6
    held = run(7, kind)
    every_stop = stops | tiny_target.stop_token_ids
    assert all(len(tokens) >= 8 and not every_stop.intersection(tokens[:7]) for tokens in held)
    assert any(tokens[-1] in stops and len(tokens) < 20 for tokens in held)
    if temperature == 0 or kind == "tree":
        assert held == run(7, "autoregressive")


def test_ignored_stops_do_not_end_an_answer(tiny_target: Target, make_fitted_draft: DraftMaker) -> None:
    params = [SamplingParams(temperature=2.0, max_new_tokens=100, seed=i, ignore_eos=True) for i in range(8)]
    answers = decode(speculative(tiny_target, make_fitted_draft("llama"), max_batch=8), [[30, 40]] * 8, params)
    assert [len(tokens) for tokens in answers] == [100] * 8
    assert any(tiny_target.stop_token_ids.intersection(tokens[:-1]) for tokens in answers)
    own = SamplingParams(max_new_tokens=50, ignore_eos=True, temperature=2.0, seed=0)
    free = decode(Engine(tiny_target, max_tokens=120), [[30, 40]], [own])[0]
    stopped = decode(
        Engine(tiny_target, max_tokens=120), [[30, 40]], [replace(own, stop_token_ids=frozenset({free[9]}))]
    )[0]
    assert stopped == free[: free.index(free[9]) + 1]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"num_logprobs": 21}, "logprobs"),
        ({"num_logprobs": -1}, "logprobs"),
        ({"min_new_tokens": 129}, "min_tokens"),
        ({"min_new_tokens": -1}, "min_tokens"),
        ({"max_new_tokens": -1}, "max_tokens"),
        ({"score_prompt": True}, "logprobs"),
    ],
)
def test_bad_values_are_refused(changes: dict[str, int], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        SamplingParams(**changes)  # type: ignore[arg-type]
    assert caught.value.param == param


def test_times_of_queue_and_prefill_are_kept(tiny_target: Target) -> None:
    engine = Engine(tiny_target, max_batch=1, max_tokens=120)
    for name in ("first", "second"):
        engine.submit(name, [5, 6], SamplingParams(max_new_tokens=10))
    done = run_to_end(engine)
    first, second = done["first"][-1].stats, done["second"][-1].stats
    assert first.prefill_s > 0
    assert second.queue_s > first.queue_s + first.prefill_s > 0  # it waited for the only slot
