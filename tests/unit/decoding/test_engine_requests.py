"""The life of a request in the round loop: its own random stream, stops, caps, cancels, capture, bad requests, and a
target that breaks.

Oracles: the same request decoded alone; transformers' hidden states.

Shapes: T tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_helpers import DraftMaker, TargetMaker, answer, decode, make_prompts, speculative
from transformers import PreTrainedModel

from eda_service.config.job import TargetSpec, TreeConfig
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.request import SamplingParams, StepOutput
from eda_service.drafts.draft import Draft
from eda_service.drafts.head import DraftHead
from eda_service.errors import RequestError
from eda_service.targets.loader import Target, load_target


@pytest.mark.parametrize("with_draft", [True, False])
def test_a_sampled_request_does_not_depend_on_its_neighbours(
    tiny_target: Target, make_fitted_draft: DraftMaker, with_draft: bool
) -> None:
    """The same request alone, and among greedy, nucleus and hot ones, in another slot and admitted in another round."""

    def engine() -> Engine:
        if with_draft:
            return speculative(tiny_target, make_fitted_draft("llama"))
        return Engine(tiny_target, max_batch=4, max_tokens=120)

    ids, mine = [30, 40, 50], SamplingParams(temperature=0.8, top_p=0.9, max_new_tokens=25, seed=7)
    alone = decode(engine(), [ids], [mine])[0]
    neighbours = [
        SamplingParams(max_new_tokens=3),
        SamplingParams(temperature=1.3, top_p=0.7, max_new_tokens=11, seed=1),
        SamplingParams(temperature=1.0, max_new_tokens=30, seed=2),
        SamplingParams(max_new_tokens=9),
    ]
    together = decode(engine(), [*make_prompts(4, seed=6), ids], [*neighbours, mine])
    assert together[-1] == alone
    other_seed = decode(engine(), [ids], [SamplingParams(temperature=0.8, top_p=0.9, max_new_tokens=25, seed=8)])[0]
    assert other_seed != alone


def test_a_greedy_request_stays_greedy_among_sampled_ones(tiny_target: Target, make_fitted_draft: DraftMaker) -> None:
    ids, greedy = [30, 40, 50], SamplingParams(max_new_tokens=25)
    alone = decode(Engine(tiny_target, max_tokens=120), [ids], [greedy])[0]
    hot = [SamplingParams(temperature=1.5, max_new_tokens=25, seed=i) for i in range(3)]
    together = decode(speculative(tiny_target, make_fitted_draft("llama")), [*make_prompts(3), ids], [*hot, greedy])
    assert together[-1] == alone


def test_requests_without_a_seed_differ_and_the_engine_s_seed_repeats_them(tiny_target: Target) -> None:
    def run(seed: int) -> list[list[int]]:
        engine = Engine(tiny_target, max_batch=4, max_tokens=120, seed=seed)
        return decode(engine, [[30, 40]] * 4, [SamplingParams(temperature=1.0, max_new_tokens=15)] * 4)

    first = run(3)
    assert len({tuple(tokens) for tokens in first}) == 4
    assert run(3) == first
    assert run(4) != first


@pytest.mark.parametrize("with_draft", [True, False])
def test_stop_token_ends_the_answer_and_is_its_last_token(
    tiny_target: Target, make_fitted_draft: DraftMaker, with_draft: bool
) -> None:
    """Each token of the free answers is made the stop token in turn: also those inside an accepted chain."""
    cut_inside_a_chain = False
    for ids in make_prompts(4, seed=12):
        free = decode(Engine(tiny_target, max_tokens=120), [ids], [SamplingParams(max_new_tokens=20)])[0]
        for stop in dict.fromkeys(free):
            engine = Engine(tiny_target, max_tokens=120)
            if with_draft:
                engine = speculative(tiny_target, make_fitted_draft("llama"))
            engine.submit("r", ids, SamplingParams(max_new_tokens=20, stop_token_ids=frozenset({stop})))
            outputs = run_to_end(engine)["r"]
            assert answer(outputs) == free[: free.index(stop) + 1]
            assert outputs[-1].finish_reason == "stop"
            assert outputs[-1].stats.num_new_tokens == free.index(stop) + 1
            # All but the last of a round's tokens were drafted: a stop among them cuts the round short.
            cut_inside_a_chain |= len(outputs) > 1 and 1 < len(outputs[-1].new_token_ids) < 5
    assert cut_inside_a_chain or not with_draft


def test_the_target_s_own_stop_tokens_always_end(make_target: TargetMaker, new_draft: Callable[..., Draft]) -> None:
    """Sampled hot until <|im_end|> or <|endoftext|>, both of them stops, falls: nothing follows either."""
    target = make_target("llama")
    params = [SamplingParams(temperature=2.0, max_new_tokens=100, seed=i) for i in range(40)]
    answers = decode(speculative(target, new_draft(target), max_batch=40), [[30, 40]] * 40, params)
    stopped = [tokens for tokens in answers if tokens[-1] in target.stop_token_ids]
    assert len(stopped) > 3
    assert {tokens[-1] for tokens in stopped} == {0, 2}
    assert not any(target.stop_token_ids.intersection(tokens[:-1]) for tokens in answers)


@pytest.mark.parametrize("cap", [1, 2, 4, 5, 6, 11])
def test_cap_is_exact(tiny_target: Target, make_fitted_draft: DraftMaker, cap: int) -> None:
    engine = speculative(tiny_target, make_fitted_draft("llama"))
    engine.submit("r", [30, 40, 50], SamplingParams(max_new_tokens=cap))
    outputs = run_to_end(engine)["r"]
    assert len(answer(outputs)) == cap
    assert [output.finish_reason for output in outputs] == [None] * (len(outputs) - 1) + ["length"]


def test_cancel_waiting_and_running(tiny_target: Target, make_fitted_draft: DraftMaker) -> None:
    prompts = make_prompts(5, seed=9)
    params = SamplingParams(max_new_tokens=20)
    wanted = decode(Engine(tiny_target, max_batch=5, max_tokens=120), prompts, [params] * 5)
    engine = speculative(tiny_target, make_fitted_draft("llama"), max_batch=3)
    for i, ids in enumerate(prompts):
        engine.submit(str(i), ids, params)
    seen: dict[str, list[StepOutput]] = {str(i): [] for i in range(5)}
    for output in engine.step():
        seen[output.request_id].append(output)
    engine.cancel("0")  # running, in the first slot: another row moves into it
    engine.cancel("4")  # waiting
    engine.cancel("nobody")
    assert (engine.num_running, engine.num_waiting) == (2, 1)
    while engine.has_work:
        for output in engine.step():
            seen[output.request_id].append(output)
    for gone in ("0", "4"):
        assert seen[gone][-1].finish_reason == "cancelled"
        assert seen[gone][-1].new_token_ids == []
    assert [answer(seen[str(i)]) for i in (1, 2, 3)] == wanted[1:4]
    assert wanted[0][: len(answer(seen["0"]))] == answer(seen["0"])
    assert answer(seen["4"]) == []


def test_cancelling_the_only_request_leaves_an_engine_that_works(tiny_target: Target) -> None:
    engine = Engine(tiny_target, max_tokens=120)
    engine.submit("a", [30], SamplingParams(max_new_tokens=50))
    engine.step()
    engine.cancel("a")
    assert [output.finish_reason for output in engine.step()] == ["cancelled"]
    assert not engine.has_work
    wanted = decode(Engine(tiny_target, max_tokens=120), [[30]], [SamplingParams(max_new_tokens=5)])
    assert decode(engine, [[30]], [SamplingParams(max_new_tokens=5)]) == wanted


@pytest.mark.parametrize("with_draft", [True, False])
def test_captured_features_are_the_target_s_at_every_position_but_the_last(
    tiny_target: Target,
    make_fitted_draft: DraftMaker,
    reference_model: Callable[[str], PreTrainedModel],
    with_draft: bool,
) -> None:
    draft = make_fitted_draft("llama") if with_draft else None
    head = DraftHead(tiny_target.lm_head, None) if with_draft else None
    engine = Engine(tiny_target, draft, head, num_draft_tokens=3, max_batch=2, max_tokens=120, capture_features=True)
    prompts = make_prompts(4, seed=5)
    for i, ids in enumerate(prompts):
        engine.submit(str(i), ids, SamplingParams(max_new_tokens=17))
    for key, outputs in run_to_end(engine).items():
        tokens = prompts[int(key)] + answer(outputs)
        states = outputs[-1].states
        assert states is not None
        assert states.is_one
        wanted_TD = reference_model("llama").model(torch.tensor([tokens])).last_hidden_state[0, :-1]
        torch.testing.assert_close(states.head_in, wanted_TD, rtol=1e-3, atol=1e-3)
        assert all(output.states is None for output in outputs[:-1])


@pytest.mark.parametrize(
    ("ids", "cap", "param", "message"),
    [
        ([], 4, "prompt", "the prompt is empty"),
        ([5, 112], 4, "prompt", r"outside 0\.\.111"),
        ([-1], 4, "prompt", r"outside 0\.\.111"),
        ([5] * 30, 4, "max_tokens", "30 prompt tokens and max_tokens 4 exceed the context of 32"),
    ],
)
def test_a_bad_prompt_is_refused_at_submit(
    tiny_target: Target, ids: list[int], cap: int, param: str, message: str
) -> None:
    engine = Engine(tiny_target, max_tokens=32)
    with pytest.raises(RequestError, match=message) as caught:
        engine.submit("r", ids, SamplingParams(max_new_tokens=cap))
    assert caught.value.param == param
    assert not engine.has_work


@pytest.mark.parametrize("stop", [112, -1])
def test_an_unknown_stop_token_is_refused_at_submit(tiny_target: Target, stop: int) -> None:
    engine = Engine(tiny_target, max_tokens=32)
    with pytest.raises(RequestError, match=rf"stop token {stop} lies outside 0\.\.111") as caught:
        engine.submit("a", [5], SamplingParams(stop_token_ids=frozenset({stop}), max_new_tokens=4))
    assert caught.value.param == "stop"
    assert not engine.has_work


def test_the_longest_request_that_fits_is_served(tiny_target: Target, make_fitted_draft: DraftMaker) -> None:
    """The whole context of the model: room for drafted tokens comes on top."""
    engine = speculative(tiny_target, make_fitted_draft("llama"), max_tokens=10_000)
    assert engine.max_tokens == 512
    engine.submit("r", [30] * 490, SamplingParams(max_new_tokens=17))
    assert len(answer(run_to_end(engine)["r"])) == 17


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("max_new_tokens", -1),
    ],
)
def test_a_bad_parameter_names_its_field(field: str, value: float) -> None:
    with pytest.raises(RequestError) as caught:
        SamplingParams(**{field: value})  # type: ignore[arg-type]
    assert caught.value.param == ("max_tokens" if field == "max_new_tokens" else field)


_POISON = 111  # a token that no healthy answer below holds


@pytest.fixture(scope="module")
def poisoned(target_dir: Callable[[str], Path]) -> Target:
    """A target whose embedding of one token is not a number."""
    target = load_target(TargetSpec(model=str(target_dir("qwen2")), dtype="float32"))
    weight = target.embed.weight
    assert isinstance(weight, torch.Tensor)
    weight.data[_POISON] = float("nan")
    return target


def test_non_finite_logits_end_one_request_and_no_other(poisoned: Target, make_target: TargetMaker) -> None:
    prompts = [[30, 40], [30, _POISON], [50, 60]]
    params = [SamplingParams(max_new_tokens=12)] * 3
    healthy = decode(Engine(make_target("qwen2"), max_tokens=120), [prompts[0], prompts[2]], params[:2])
    assert all(_POISON not in tokens for tokens in healthy)
    engine = Engine(poisoned, max_batch=3, max_tokens=120)
    for i, ids in enumerate(prompts):
        engine.submit(str(i), ids, params[i])
    done = run_to_end(engine)
    assert done["1"][-1].finish_reason == "error"
    assert done["1"][-1].error == "the target gave non-finite logits"
    assert [answer(done["0"]), answer(done["2"])] == healthy


@pytest.mark.parametrize("settings", [{"num_draft_tokens": 3}, {"tree": TreeConfig(size=7, depth=3, width=3)}])
def test_non_finite_logits_beside_drafts_end_one_request_and_no_other(
    settings: dict[str, Any], poisoned: Target, make_target: TargetMaker, make_fitted_draft: DraftMaker
) -> None:
    prompts = [[30, 40], [30, _POISON], [50, 60], [70, 80]]
    params = [SamplingParams(max_new_tokens=12)] * 4
    healthy = decode(Engine(make_target("qwen2"), max_tokens=120), [prompts[0], *prompts[2:]], params[:3])
    assert all(_POISON not in tokens for tokens in healthy)
    vocab_W = torch.tensor([token for token in range(112) if token != _POISON])
    engine = speculative(poisoned, make_fitted_draft("qwen2"), max_batch=2, vocab_W=vocab_W, **settings)
    for i, ids in enumerate(prompts):
        engine.submit(str(i), ids, params[i])
    done = run_to_end(engine)
    assert done["1"][-1].finish_reason == "error"
    assert [answer(done[name]) for name in ("0", "2", "3")] == healthy


def test_a_slot_that_held_non_finite_keys_serves_the_next_request(poisoned: Target, make_target: TargetMaker) -> None:
    """The broken request's keys stay in its slot; a short request that gets the slot must not see them.

    A long one beside it makes the forward look at positions that the short one has not written yet.
    """
    short, long = [30, 40], [50] * 20
    params = SamplingParams(max_new_tokens=8)
    healthy = decode(Engine(make_target("qwen2"), max_batch=2, max_tokens=120), [short, long], [params] * 2)
    assert all(_POISON not in tokens for tokens in healthy)
    engine = Engine(poisoned, max_batch=2, max_tokens=120)
    engine.submit("bad", [30] * 10 + [_POISON] + [30] * 4, params)
    assert run_to_end(engine)["bad"][-1].finish_reason == "error"
    engine.submit("short", short, params)
    outputs = engine.step()
    engine.submit("long", long, params)
    while engine.has_work:
        outputs += engine.step()
    assert [answer([o for o in outputs if o.request_id == name]) for name in ("short", "long")] == healthy
