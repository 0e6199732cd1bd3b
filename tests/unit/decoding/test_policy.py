"""Adaptive depth on a simulated machine: the depth it settles on against the best one by enumeration; and on real
engines, where its choices must not show in the answers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from engine_helpers import DraftMaker, TargetMaker, decode, make_prompts, speculative

from eda_service.config.job import TreeConfig
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.live import LiveRequest
from eda_service.decoding.policy import Adaptive
from eda_service.decoding.request import RequestStats, SamplingParams
from eda_service.decoding.round_costs import RoundCosts
from eda_service.decoding.rounds import RowResult
from eda_service.decoding.variants import Variant
from eda_service.drafts.draft import Draft
from eda_service.targets.loader import Target

MOST = 6


def request(*, speculate: bool = True, seed: int | None = None, temperature: float = 0.0) -> LiveRequest:
    params = SamplingParams(speculate=speculate, seed=seed, temperature=temperature)
    stats, variant = RequestStats(num_prompt_tokens=1), Variant("", None, None)
    return LiveRequest("r", [1], params, frozenset(), torch.Generator(), stats, variant)


def simulate(
    policy: Adaptive,
    live: Sequence[LiveRequest],
    *,
    chance: float,
    step_cost: float,
    num_rounds: int,
    seed: int = 0,
    draft_cost: float = 0.0,
    told: bool = False,
    catch_up: float = 0.0,
    first_rounds: int = 0,
) -> tuple[float, list[int]]:
    """(tokens per unit of time, depths) on a machine where a round of depth d takes 1 + [d > 0] draft + d step, and
    `catch_up` more if it drafts after one that did not. The first rounds of each depth take 30 times as long.

    With `told`, the draft's probability is 0.95 where the target will accept and 0.15 where it will not.
    """
    rng = random.Random(seed)
    tokens, seconds, depths = 0, 0.0, []
    for _ in range(num_rounds):
        depth = policy.depth(live, MOST)
        rows_hits = [[each.params.speculate and rng.random() < chance for _ in range(MOST)] for each in live]
        go_on = policy.confidence(live, depth) if depth else None
        for level in range(depth - 1):
            sure = [0.95 if hits[level] and told else 0.15 for hits in rows_hits]
            if go_on is not None and not go_on(torch.tensor(sure)):
                depth = level + 1
                break
        took = 1.0 + step_cost * depth + (draft_cost if depth else 0.0)
        took *= 30.0 if depths.count(depth) < first_rounds else 1.0
        results = []
        for each, hits in zip(live, rows_hits, strict=True):
            accepted = [*hits[:depth], False].index(False)
            proposed = depth if each.params.speculate else 0
            results.append(RowResult([0] * (accepted + 1), [0], torch.empty(0), proposed, True))
            tokens += accepted + 1
        missed = catch_up if depth and depths and not depths[-1] else 0.0
        policy.observe(live, depth, results, took, missed)
        seconds += took + missed
        depths.append(depth)
    return tokens / seconds, depths


def best_rate(chance: float, step_cost: float) -> float:
    return max(sum(chance**i for i in range(depth + 1)) / (1.0 + step_cost * depth) for depth in range(MOST + 1))


@pytest.mark.parametrize("chance", [0.05, 0.2, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("step_cost", [0.02, 0.1, 0.3])
def test_the_rate_comes_near_the_best_fixed_depth(chance: float, step_cost: float) -> None:
    policy, live = Adaptive(read_confidence=False), [request()]
    simulate(policy, live, chance=chance, step_cost=step_cost, num_rounds=200)
    rate, _ = simulate(policy, live, chance=chance, step_cost=step_cost, num_rounds=1500, seed=1)
    assert rate > 0.94 * best_rate(chance, step_cost)


@pytest.mark.parametrize("chance", [0.2, 0.5, 0.8])
def test_a_draft_that_knows_when_it_is_wrong_beats_every_fixed_depth(chance: float) -> None:
    """Chains should end after the first wrong token; the same draft without a telling confidence gains nothing."""
    policy, live = Adaptive(), [request()]
    simulate(policy, live, chance=chance, step_cost=0.2, num_rounds=300, told=True)
    rate, _ = simulate(policy, live, chance=chance, step_cost=0.2, num_rounds=1500, seed=1, told=True)
    drafted = [min(MOST, hits + 1) for hits in range(MOST + 1)]
    weights = [chance**hits * (1 - chance if hits < MOST else 1) for hits in range(MOST + 1)]
    perfect = sum(w * (hits + 1) for hits, w in enumerate(weights))
    perfect /= sum(w * (1 + 0.2 * d) for d, w in zip(drafted, weights, strict=True))
    assert rate > 0.95 * max(1.0, perfect)
    assert rate > 0.98 * best_rate(chance, 0.2)


@pytest.mark.parametrize("read_confidence", [True, False])
def test_a_draft_that_never_hits_costs_less_than_three_percent(read_confidence: bool) -> None:
    """Autoregressive speed is 1; a speculative round costs 1.2 here. From the first round on."""
    policy = Adaptive(read_confidence=read_confidence)
    rate, depths = simulate(policy, [request()], chance=0.0, step_cost=0.1, draft_cost=0.1, num_rounds=1000)
    assert rate > 0.97
    assert depths.count(0) > 900


@pytest.mark.parametrize("first_rounds", [1, 2, 3])
def test_kernels_that_are_loaded_when_first_needed_do_not_switch_speculation_off(first_rounds: int) -> None:
    """An H100's times, in its plain steps, where nothing was drafted though that would have paid half again."""
    policy, live = Adaptive(read_confidence=False), [request()]
    machine = {"chance": 0.57, "step_cost": 0.045, "draft_cost": 0.27}
    simulate(policy, live, **machine, num_rounds=100, first_rounds=first_rounds)
    rate, depths = simulate(policy, live, **machine, num_rounds=500)
    assert sum(depth > 0 for depth in depths) > 450
    assert rate > 1.3


def test_what_was_slow_for_a_while_is_tried_again() -> None:
    policy, live = Adaptive(read_confidence=False), [request()]
    slow = {"chance": 0.6, "step_cost": 1.0, "draft_cost": 2.0}
    _, depths = simulate(policy, live, **slow, num_rounds=300)
    assert sum(depth > 0 for depth in depths[100:]) < 60
    _, depths = simulate(policy, live, chance=0.6, step_cost=0.05, draft_cost=0.2, num_rounds=2500)
    assert sum(depth > 0 for depth in depths[1500:]) > 900


def test_dear_probes_are_rare() -> None:
    """In a batch the draft has missed much before a probe: four steps' worth here."""
    policy = Adaptive()
    simulate(policy, [request()], chance=0.0, step_cost=0.5, catch_up=4.0, num_rounds=100)
    rate, depths = simulate(policy, [request()], chance=0.0, step_cost=0.5, catch_up=4.0, num_rounds=3000, seed=1)
    assert rate > 0.98
    assert 8 <= len(depths) - depths.count(0) <= 18


def test_rows_more_cost_what_the_nearest_number_of_rows_suggests() -> None:
    round_costs = RoundCosts()
    for _ in range(5):
        round_costs.add(16, 0, 2.0)
        round_costs.add(16, 3, 5.0)
        round_costs.add(1, 0, 1.0)
        round_costs.add(1, 3, 1.4)
    round_costs.add(15, 0, 1.8)
    round_costs.add(2, 0, 1.1)
    assert round_costs.speculative(15) == pytest.approx(1.8 * 2.5)
    assert round_costs.speculative(2) == pytest.approx(1.1 * 1.4)


def test_speculation_comes_back_when_the_draft_fits_again() -> None:
    policy, live = Adaptive(), [request()]
    _, before = simulate(policy, live, chance=0.0, step_cost=0.1, num_rounds=300)
    _, after = simulate(policy, live, chance=0.95, step_cost=0.1, num_rounds=1200)
    assert sum(before[-100:]) <= 5
    assert min(sum(after[-100:]), 200) == 200


def test_a_request_the_draft_does_not_fit_is_left_alone_while_others_are_drafted_for() -> None:
    policy = Adaptive()
    simulate(policy, [request()], chance=0.9, step_cost=0.1, num_rounds=300)
    _, depths = simulate(policy, [request()], chance=0.0, step_cost=0.1, num_rounds=200)
    assert sum(depths[60:]) < 60
    _, again = simulate(policy, [request()], chance=0.9, step_cost=0.1, num_rounds=100)
    assert sum(again[-50:]) > 100


def test_rows_without_speculation_earn_nothing() -> None:
    policy = Adaptive()
    live = [request(speculate=False), request(speculate=False)]
    assert policy._tokens(live, 5) == policy._tokens(live) == 2.0


def test_a_seeded_sampled_request_keeps_the_full_chain() -> None:
    """A chain's draws depend on where rounds begin: the depth may not depend on a clock."""
    policy = Adaptive()
    seeded = [request(seed=1, temperature=1.0)]
    _, depths = simulate(policy, seeded, chance=0.0, step_cost=0.5, num_rounds=50)
    assert set(depths) == {MOST}
    assert policy.confidence(seeded, MOST) is None


def test_a_stall_is_not_believed() -> None:
    round_costs = RoundCosts()
    for _ in range(50):
        round_costs.add(1, 0, 1.0)
    round_costs.add(1, 0, 500.0)
    assert round_costs.of(1, 0) < 1.3
    assert round_costs.of(1, 3) == pytest.approx(round_costs.of(1, 0) * 1.3)


def test_depths_lie_on_a_line_that_one_stall_does_not_bend_much() -> None:
    round_costs = RoundCosts()
    for _ in range(20):
        round_costs.add(1, 0, 1.0)
        for depth in (1, 2, 3):
            round_costs.add(1, depth, 1.1 + 0.2 * depth)
    assert round_costs.of(1, 2) == pytest.approx(1.5, abs=0.02)
    assert round_costs.of(1, 6) == pytest.approx(2.3, abs=0.15)
    round_costs.add(1, 5, 9.0)
    assert round_costs.of(1, 5) < 4.0
    assert round_costs.of(2, 3) == pytest.approx(1.3)  # nothing seen of two rows: a tenth of a step per level


@pytest.mark.parametrize("tree", [None, TreeConfig(size=7, depth=3, width=3)], ids=["chain", "tree"])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_answers_do_not_show_it(
    family: str, tree: TreeConfig | None, make_target: TargetMaker, make_fitted_draft: DraftMaker
) -> None:
    """T=0 over many rounds, so that depth 0, probes, short and full drafts all occur and pending pairs pile up."""
    target, prompts = make_target(family), make_prompts(12, seed=7)
    params = [SamplingParams(max_new_tokens=60)] * 12
    plain = decode(Engine(target, max_batch=3, max_tokens=120), prompts, params)
    engine = speculative(target, make_fitted_draft(family), max_batch=3, policy=_Restless(), tree=tree)
    assert decode(engine, prompts, params) == plain


class _Restless(Adaptive):
    """Adaptive's bookkeeping with depths that change every round."""

    def __init__(self) -> None:
        super().__init__()
        self._rng = random.Random(0)

    def depth(self, live: Sequence[LiveRequest], most: int) -> int:
        super().depth(live, most)
        return self._rng.choice([0, 0, 1, most, most])


def test_a_useless_draft_on_a_real_engine_is_switched_off(tiny_target: Target, tiny_draft: Draft) -> None:
    engine = speculative(tiny_target, tiny_draft, policy=Adaptive(), max_batch=1)
    params = SamplingParams(max_new_tokens=100)
    for i, ids in enumerate(make_prompts(4, seed=2)):
        engine.submit(str(i), ids, params)
    proposed = rounds = 0
    while engine.has_work:
        for output in engine.step():
            if output.finish_reason is not None:
                proposed, rounds = proposed + output.stats.num_draft_tokens, rounds + output.stats.num_rounds
    assert proposed < rounds


@pytest.mark.parametrize("tree", [None, TreeConfig(size=7, depth=3, width=3)], ids=["chain", "tree"])
def test_the_draft_sees_what_it_missed_whichever_way_it_catches_up(
    tree: TreeConfig | None, make_target: TargetMaker, make_fitted_draft: DraftMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows by themselves, or all within the round: the same drafts, told by what is accepted in each round."""
    target, prompts = make_target("llama"), make_prompts(9, seed=11)
    params = SamplingParams(max_new_tokens=40)
    seen: list[list[int]] = []
    for few in (1, 10**6):
        monkeypatch.setattr("eda_service.decoding.rounds._FEW_PENDING", few)
        engine = speculative(target, make_fitted_draft("llama"), max_batch=3, policy=_Restless(), tree=tree)
        for i, ids in enumerate(prompts):
            engine.submit(str(i), ids, params)
        seen.append([len(output.new_token_ids) for outputs in run_to_end(engine).values() for output in outputs])
    assert seen[0] == seen[1]
    assert sum(length > 1 for length in seen[0]) > 4
