"""Eq. 2: mean_accepted, and with it acceptance_length = 1 + mean_accepted, acceptance_rate and acceptance by position.

Oracles: rounds counted by hand; for the engine the identity (tokens after the first) / rounds, and a recount of the
accepted tokens from the outputs.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.request import RequestStats, SamplingParams
from eda_service.drafts.draft import Draft
from eda_service.drafts.head import DraftHead
from eda_service.evaluation.acceptance import summarise
from eda_service.targets.loader import Target


def test_three_rounds_by_hand() -> None:
    stats = RequestStats(num_prompt_tokens=5)
    for num_emitted in (4, 1, 2):  # K = 3: accepted 3, 0 and 1
        stats.count_round(3, num_emitted)
    row = summarise("base_draft", 0.0, [stats], num_draft_tokens=3)
    assert row.mean_accepted == pytest.approx(4 / 3)
    assert row.acceptance_length == pytest.approx(7 / 3)
    assert row.acceptance_rate == pytest.approx(4 / 9)
    assert row.acceptance_by_position == pytest.approx((2 / 3, 1 / 3, 1 / 3))
    assert (row.num_rounds, row.num_new_tokens) == (3, 7)


def test_mean_is_over_rounds_not_over_prompts() -> None:
    long, short = RequestStats(num_prompt_tokens=1), RequestStats(num_prompt_tokens=1)
    for _ in range(9):
        long.count_round(2, 1)
    short.count_round(2, 3)
    row = summarise("base_draft", 0.0, [long, short], num_draft_tokens=2)
    assert row.mean_accepted == pytest.approx(0.2)  # 2 accepted in 10 rounds; over prompts it would be 1.0
    assert row.acceptance_length == pytest.approx(1.2)


def test_nothing_accepted_is_length_one_and_no_round_is_no_division() -> None:
    stats = RequestStats(num_prompt_tokens=1)
    stats.count_round(4, 1)
    assert summarise("d", 0.0, [stats], num_draft_tokens=4).acceptance_length == 1.0
    empty = summarise("d", 0.0, [RequestStats(num_prompt_tokens=1)], num_draft_tokens=4)
    assert (empty.mean_accepted, empty.acceptance_rate, empty.num_rounds) == (0.0, 0.0, 0)


def test_positions_sum_to_mean_accepted() -> None:
    stats = RequestStats(num_prompt_tokens=1)
    for num_emitted in (1, 2, 3, 4, 5, 5, 1):
        stats.count_round(4, num_emitted)
    row = summarise("d", 0.0, [stats], num_draft_tokens=4)
    assert sum(row.acceptance_by_position) == pytest.approx(row.mean_accepted)
    assert list(row.acceptance_by_position) == sorted(row.acceptance_by_position, reverse=True)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_engine_counts_what_it_emits(
    tiny_target: Target,
    make_fitted_draft: Callable[[str], Draft],
    full_head: DraftHead,
    temperature: float,
) -> None:
    """Every round emits its accepted tokens and one of the target's; prefill's token belongs to no round."""
    engine = Engine(tiny_target, make_fitted_draft("llama"), full_head, num_draft_tokens=4, max_batch=3, max_tokens=80)
    for i in range(6):
        engine.submit(str(i), [10 + i, 40, 50], SamplingParams(temperature=temperature, max_new_tokens=24, seed=i))
    accepted_by_round: list[int] = []
    stats = []
    for outputs in run_to_end(engine).values():
        accepted_by_round += [len(output.new_token_ids) - 1 for output in outputs[1:]]
        stats.append(outputs[-1].stats)
    row = summarise("d", temperature, stats, num_draft_tokens=4)
    assert 0 < sum(accepted_by_round) < 4 * len(accepted_by_round)
    assert row.num_rounds == len(accepted_by_round)
    assert row.mean_accepted == pytest.approx(sum(accepted_by_round) / len(accepted_by_round))
    assert row.acceptance_rate == pytest.approx(sum(accepted_by_round) / (4 * len(accepted_by_round)))
    by_position = [sum(a >= k for a in accepted_by_round) / len(accepted_by_round) for k in (1, 2, 3, 4)]
    assert row.acceptance_by_position == pytest.approx(by_position)
    num_tokens = sum(item.num_new_tokens for item in stats)
    assert row.acceptance_length == pytest.approx((num_tokens - len(stats)) / row.num_rounds)
