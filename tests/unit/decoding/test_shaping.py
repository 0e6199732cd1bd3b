"""Bias, penalties, suppressed tokens and truncation, alone and under drafting.

Oracles: transformers' `generate` with its own processors; a formula over token lists in numpy, written here; the exact
law of two tokens; transformers' warpers. The defect that drafting invites, penalties that do not see the tokens
drafted before a position in the same round, is put in on purpose and must be caught.

Shapes: B rows, L positions, V vocabulary, N answers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from engine_helpers import DraftMaker, answer, decode, make_prompts, speculative
from test_verification import chi_square
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers.generation.logits_process import MinPLogitsWarper, TopKLogitsWarper

from eda_service.config.job import TreeConfig
from eda_service.decoding import shaping
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.proposal import Chain
from eda_service.decoding.request import SamplingParams
from eda_service.decoding.sampling import Truncation, distribution
from eda_service.decoding.shaping import History, Verified, shape
from eda_service.decoding.tree import DraftTree, shape_of
from eda_service.errors import RequestError
from eda_service.targets.loader import Target

CAP = 16
TREE = TreeConfig(size=7, depth=3, width=3)
SHAPES: dict[str, dict[str, Any]] = {"chain": {"num_draft_tokens": 4}, "tree": {"tree": TREE}}
PENALISED = {
    "repetition": {"repetition_penalty": 2.5},
    "presence": {"presence_penalty": 2.0},
    "frequency": {"frequency_penalty": 0.9},
    "wanted again": {"frequency_penalty": -2.0, "repetition_penalty": 0.4},
    "biased": {"logit_bias": ((40, 6.0), (41, -5.0), (7, 3.0)), "repetition_penalty": 1.2},
    "all": {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.4, "logit_bias": ((9, 4.0),)},
    "none": {},
}


def shaped_by_hand(logits_V: np.ndarray, prompt: Sequence[int], before: Sequence[int], params: Any) -> np.ndarray:
    """One position's logits, token by token: bias, repetition over prompt and answer, counts over the answer."""
    found_V = logits_V.astype(np.float32).copy()
    for token, bias in params.logit_bias:
        found_V[token] += np.float32(bias)
    for token in {*prompt, *before}:
        factor = np.float32(params.repetition_penalty)
        found_V[token] = found_V[token] / factor if found_V[token] > 0 else found_V[token] * factor
    for token in set(before):
        found_V[token] -= np.float32(params.frequency_penalty) * np.float32(before.count(token))
        found_V[token] -= np.float32(params.presence_penalty)
    found_V[list(params.suppress_token_ids)] = -np.inf
    if not before:
        found_V[list(params.begin_suppress_token_ids)] = -np.inf
    return found_V


class ByHand(LogitsProcessor):
    """`shaped_by_hand` inside transformers' `generate`."""

    def __init__(self, num_prompt_tokens: int, params: SamplingParams) -> None:
        self._num_prompt_tokens, self._params = num_prompt_tokens, params

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        ids = input_ids[0].tolist()
        prompt, before = ids[: self._num_prompt_tokens], ids[self._num_prompt_tokens :]
        return torch.from_numpy(shaped_by_hand(scores[0].numpy(), prompt, before, self._params))[None]


def generated(model: PreTrainedModel, target: Target, ids: list[int], cap: int, **asked: Any) -> list[int]:
    out = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        do_sample=False,
        max_new_tokens=cap,
        eos_token_id=sorted(target.stop_token_ids),
        **asked,
    )
    return [int(token) for token in out[0, len(ids) :]]


def greedy(**changes: Any) -> SamplingParams:
    return SamplingParams(max_new_tokens=CAP, **changes)


@pytest.mark.parametrize("settings", SHAPES.values(), ids=SHAPES)
def test_greedy_answers_are_those_of_transformers_own_processors(
    settings: dict[str, Any],
    tiny_target: Target,
    make_fitted_draft: DraftMaker,
    reference_model: Callable[[str], PreTrainedModel],
) -> None:
    """Rows of one batch, each with other values; `generate` knows these by name."""
    prompts, model = make_prompts(5, seed=21), reference_model("llama")
    free = [generated(model, tiny_target, ids, CAP) for ids in prompts]
    asked: list[dict[str, Any]] = [
        {"repetition_penalty": 1.3},
        {"suppress_tokens": free[1][1:4]},
        {"begin_suppress_tokens": free[2][:1]},
        {"repetition_penalty": 0.6, "suppress_tokens": free[3][:1], "begin_suppress_tokens": [30, 31]},
        {},
    ]
    names = {"suppress_tokens": "suppress_token_ids", "begin_suppress_tokens": "begin_suppress_token_ids"}
    params = [
        greedy(**{names.get(key, key): frozenset(v) if key in names else v for key, v in each.items()})
        for each in asked
    ]
    wanted = [generated(model, tiny_target, ids, CAP, **each) for ids, each in zip(prompts, asked, strict=True)]
    assert decode(Engine(tiny_target, max_batch=4, max_tokens=120), prompts, params) == wanted
    assert decode(speculative(tiny_target, make_fitted_draft("llama"), **settings), prompts, params) == wanted
    assert [a == b for a, b in zip(wanted, free, strict=True)] == [False, False, False, False, True]


MIXED = [greedy(**each) for each in PENALISED.values()] * 2
MIXED_PROMPTS = make_prompts(len(MIXED), seed=22)


@pytest.fixture(scope="module")
def by_hand(tiny_target: Target, reference_model: Callable[[str], PreTrainedModel]) -> list[list[int]]:
    """What transformers answers with `ByHand`."""
    return [
        generated(
            reference_model("llama"),
            tiny_target,
            ids,
            CAP,
            logits_processor=LogitsProcessorList([ByHand(len(ids), each)]),
        )
        for ids, each in zip(MIXED_PROMPTS, MIXED, strict=True)
    ]


def clairvoyant(engine: Engine, answers: list[list[int]]) -> None:
    """Let the engine's draft propose what the target will answer, and wrong tokens beside and behind it."""
    proposer = engine._proposer
    assert proposer is not None
    chain, tree = proposer.chain, proposer.tree

    def coming(count: int) -> list[list[int]]:
        rows = [answers[int(each.request_id)][each.stats.num_new_tokens :][:count] for each in engine._live]
        return [[*row, *[3] * (count - len(row))] for row in rows]

    def propose_chain(*asked: Any, **more: Any) -> Chain:
        chain(*asked, **more)  # its cache goes on
        return Chain(torch.tensor([[*row[:-1], (row[-1] + 1) % 112] for row in coming(4)]), None)

    def propose_tree(*asked: Any, **more: Any) -> DraftTree:
        tree(*asked, **more)
        rows = [[a, (a + 1) % 112, b, (b + 1) % 112, b, c, (c + 1) % 112] for a, b, c in coming(3)]
        parents_BN = torch.tensor([[0, 0, 1, 1, 2, 3, 3]]).expand(len(rows), -1)
        return DraftTree(torch.tensor(rows), parents_BN, shape_of(parents_BN, 3))

    proposer.chain, proposer.tree = propose_chain, propose_tree  # type: ignore[method-assign]


@pytest.mark.parametrize("settings", SHAPES.values(), ids=SHAPES)
def test_penalties_see_what_was_drafted_before_in_the_same_round(
    settings: dict[str, Any],
    tiny_target: Target,
    make_fitted_draft: DraftMaker,
    by_hand: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A draft that knows the answers has most of them accepted, so that most positions follow drafted tokens."""
    draft = make_fitted_draft("llama")
    assert decode(speculative(tiny_target, draft, **settings), MIXED_PROMPTS, MIXED) == by_hand
    engine = speculative(tiny_target, draft, **settings)
    clairvoyant(engine, by_hand)
    for i, (ids, each) in enumerate(zip(MIXED_PROMPTS, MIXED, strict=True)):
        engine.submit(str(i), ids, each)
    done = run_to_end(engine)
    assert [answer(done[str(i)]) for i in range(len(MIXED))] == by_hand
    stats = [outputs[-1].stats for outputs in done.values()]
    assert sum(each.num_accepted_tokens for each in stats) > 2 * sum(each.num_rounds for each in stats)
    monkeypatch.setattr(shaping, "_drafted_before", lambda _ids, paths_PLL: torch.zeros_like(paths_PLL).float())
    assert decode(engine, MIXED_PROMPTS, MIXED) != by_hand


def test_a_seeded_answer_is_the_same_with_a_tree_and_without_a_draft(
    tiny_target: Target, make_fitted_draft: DraftMaker
) -> None:
    cuts = [{"top_k": 5}, {"min_p": 0.1}, {"top_k": 7, "top_p": 0.8, "min_p": 0.05}, {}]
    params = [
        SamplingParams(temperature=0.9, max_new_tokens=25, seed=i, **cuts[i % 4], **each)
        for i, each in enumerate(PENALISED.values())
    ]
    prompts = make_prompts(len(params), seed=23)
    plain = decode(Engine(tiny_target, max_batch=4, max_tokens=120), prompts, params)
    assert decode(speculative(tiny_target, make_fitted_draft("llama"), tree=TREE), prompts, params) == plain
    alone = decode(Engine(tiny_target, max_batch=1, max_tokens=120), prompts[:1], params[:1])
    assert alone[0] == plain[0]
    bare = [dataclasses.replace(each, top_k=0, min_p=0.0) for each in params]
    assert decode(Engine(tiny_target, max_batch=4, max_tokens=120), prompts, bare) != plain


# --- the law of chains ------------------------------------------------------------------------------------------------

_PROMPT, _NUM_ANSWERS = [30, 40, 50], 2500
_HOT = SamplingParams(temperature=1.0, top_k=3, frequency_penalty=-1.5, max_new_tokens=3)


@torch.no_grad()
def exact_law(model: PreTrainedModel) -> dict[tuple[int, ...], float]:
    """P of every answer of three tokens: at most 27, since top_k is 3."""
    law: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(3):
        longer: dict[tuple[int, ...], float] = {}
        for before, mass in law.items():
            logits_V = model(torch.tensor([[*_PROMPT, *before]])).logits[0, -1].numpy()
            scaled_V = np.exp(shaped_by_hand(logits_V, _PROMPT, list(before), _HOT).astype(np.float64))
            best = np.argsort(-scaled_V)[:3]
            for token in best:
                longer[(*before, int(token))] = mass * float(scaled_V[token] / scaled_V[best].sum())
        law = longer
    return law


def p_value(target: Target, draft: Any, law: dict[tuple[int, ...], float]) -> float:
    unstoppable = dataclasses.replace(target, stop_token_ids=frozenset())
    engine = speculative(unstoppable, draft, num_draft_tokens=2, max_batch=500, max_tokens=40)
    for i in range(_NUM_ANSWERS):
        engine.submit(str(i), _PROMPT, dataclasses.replace(_HOT, seed=i))
    done = run_to_end(engine)
    order = list(law)
    places = [order.index(tuple(answer(outputs))) for outputs in done.values()]  # nothing outside the law's support
    accepted = np.mean([outputs[-1].stats.num_accepted_tokens for outputs in done.values()])
    assert 0.05 < accepted < 1.95
    return chi_square(np.bincount(places, minlength=len(order)), np.array(list(law.values())))


def test_sampled_chains_follow_the_penalised_law(
    tiny_target: Target,
    make_fitted_draft: DraftMaker,
    reference_model: Callable[[str], PreTrainedModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draft, law = make_fitted_draft("llama"), exact_law(reference_model("llama"))
    assert p_value(tiny_target, draft, law) > 1e-3
    monkeypatch.setattr(shaping, "_drafted_before", lambda _ids, paths_PLL: torch.zeros_like(paths_PLL).float())
    try:
        wrong = p_value(tiny_target, draft, law)
    except ValueError:  # an answer outside the law's support
        wrong = 0.0
    assert wrong < 1e-6


# --- one call ---------------------------------------------------------------------------------------------------------


def test_every_position_of_chains_and_trees_is_shaped_by_its_own_path() -> None:
    """Drafted tokens repeat each other, the prompt and the answer; rows that ask for nothing keep their bits."""
    rng = torch.Generator().manual_seed(0)
    logits_BLV = 3 * torch.randn(len(PENALISED), 6, 12, generator=rng)
    ids_BL = torch.randint(0, 12, (len(PENALISED), 6), generator=rng)
    parents = torch.tensor([[0, 0, 1, 2, 4]]).expand(len(PENALISED), -1)
    shapes = {"chain": None, "tree": shape_of(parents, 4)}
    paths = {
        "chain": [list(range(1, place + 1)) for place in range(6)],
        "tree": [[], [1], [2], [1, 3], [2, 4], [2, 4, 5]],
    }
    few = {"logit_bias": ((3, 2.0), (4, -1.5)), "suppress_token_ids": frozenset({5, 6})}
    for kind, tree in shapes.items():
        params = [greedy(**(each | (few if each else {}))) for each in PENALISED.values()]
        histories = [History(each, [1, 2, 3], frozenset()) for each in params]
        for history, last in zip(histories, ids_BL[:, 0].tolist(), strict=True):
            history.add([4, 4, last])
        got_BLV = shape(histories, logits_BLV, Verified(ids_BL, tree))
        for row, each in enumerate(params):
            for place, path in enumerate(paths[kind]):
                before = [4, 4, int(ids_BL[row, 0]), *(int(ids_BL[row, node]) for node in path)]
                wanted_V = shaped_by_hand(logits_BLV[row, place].numpy(), [1, 2, 3], before, each)
                np.testing.assert_allclose(got_BLV[row, place].numpy(), wanted_V, rtol=1e-6, atol=1e-6)
        assert torch.equal(got_BLV[-1], logits_BLV[-1])


def test_rows_that_ask_for_nothing_get_the_same_tensor() -> None:
    logits_BLV = torch.zeros(2, 1, 8)
    assert shape([History(greedy(), [1], frozenset({2}))] * 2, logits_BLV) is logits_BLV


@pytest.mark.parametrize(("top_k", "min_p"), [(1, 0.0), (5, 0.0), (0, 0.2), (6, 0.3), (500, 0.0), (3, 1.0)])
def test_top_k_and_min_p_keep_what_transformers_keeps(top_k: int, min_p: float) -> None:
    """With ties at the edge; the neighbour that cuts nothing keeps its bits."""
    logits_BLV = (2 * torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(0))).round(decimals=1)
    kept = Truncation.of([1.0, 1.0], {0: (top_k, min_p)}, torch.device("cpu"))
    got_BLV = distribution(logits_BLV, torch.tensor([0.8, 0.8]), kept)
    scores_LV = logits_BLV[0] / 0.8
    if top_k:
        scores_LV = TopKLogitsWarper(top_k)(None, scores_LV)
    if min_p:
        scores_LV = MinPLogitsWarper(min_p)(None, scores_LV)
    torch.testing.assert_close(got_BLV[0], scores_LV.softmax(-1), rtol=1e-5, atol=1e-7)
    assert torch.equal(got_BLV[1], distribution(logits_BLV, torch.tensor([0.8, 0.8]))[1])


def test_the_nucleus_is_of_what_top_k_leaves() -> None:
    """0.4, 0.3, 0.2, 0.1: of the top 2, renormalised 4/7 and 3/7, a nucleus of 0.5 is the first alone."""
    logits_11V = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()[None, None]
    kept = Truncation.of([0.5], {0: (2, 0.0)}, torch.device("cpu"))
    torch.testing.assert_close(distribution(logits_11V, torch.ones(1), kept)[0, 0], torch.tensor([0.0, 1.0, 0.0, 0.0]))


@pytest.mark.parametrize(
    ("changes", "param", "limit"),
    [
        ({"top_k": -2}, "top_k", "0 or -1"),
        ({"min_p": 1.1}, "min_p", "0 to 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty", "above 0"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty", "above 0"),
        ({"presence_penalty": 2.1}, "presence_penalty", "-2 to 2"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty", "-2 to 2"),
        ({"logit_bias": ((5, 101.0),)}, "logit_bias", "-100 to 100"),
        ({"logit_bias": ((112, 1.0),)}, "logit_bias", r"0\.\.111"),
        ({"suppress_token_ids": frozenset({-1})}, "suppress_tokens", r"0\.\.111"),
        ({"suppress_token_ids": frozenset(range(112))}, "suppress_tokens", "all 112"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(
    changes: dict[str, Any], param: str, limit: str, tiny_target: Target
) -> None:
    with pytest.raises(RequestError, match=limit) as refused:
        Engine(tiny_target, max_batch=1, max_tokens=40).submit("r", [5], SamplingParams(max_new_tokens=4, **changes))
    assert refused.value.param == param
