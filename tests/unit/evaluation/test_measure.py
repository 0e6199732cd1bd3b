"""A draft measured on a target: rows against decoding, coverage by hand, and what is advised."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from eda_service.config.job import EvalConfig
from eda_service.decoding.engine import Engine
from eda_service.decoding.request import SamplingParams, own_params
from eda_service.drafts.checkpoint import LoadedDraft
from eda_service.drafts.draft import Draft
from eda_service.errors import DatasetInvalidError
from eda_service.evaluation.decode import decode_all
from eda_service.evaluation.measure import Measured, conclude, measure
from eda_service.measured_rows import AcceptanceRow, SpeedRow
from eda_service.measurement import Measurement, advise
from eda_service.records import ADAPTED, BASE
from eda_service.targets.loader import Target

PROMPTS = [[3 + (7 * i + j) % 100 for j in range(1 + 5 * i % 23)] for i in range(6)]
SETTINGS = EvalConfig(max_new_tokens=24, num_draft_tokens=3, batch_size=4, num_timed_prompts=1, num_timed_repeats=1)


def test_rows_are_those_of_decoding(
    tiny_target: Target, make_fitted_draft: Callable[[str], Draft], new_draft: Callable[..., Draft]
) -> None:
    vocab_W = torch.arange(0, 112, 2, dtype=torch.int32)
    drafts = {
        BASE: LoadedDraft(make_fitted_draft("llama"), vocab_W),
        ADAPTED: LoadedDraft(new_draft(tiny_target).requires_grad_(False), vocab_W),
    }
    told: list[tuple[float, float | None]] = []
    found = measure(
        tiny_target,
        drafts,
        PROMPTS,
        SETTINGS,
        on_progress=lambda step, done, total, unit="": told.append((done, total)),
    )
    assert [(row.draft, row.temperature) for row in found.acceptance] == [
        (BASE, 0.0), (ADAPTED, 0.0), (BASE, 1.0), (ADAPTED, 1.0),
    ]  # fmt: skip
    assert told == [(i, 6) for i in range(1, 7)]
    greedy = SamplingParams(max_new_tokens=24)
    plain = decode_all(Engine(tiny_target, max_batch=4, max_tokens=80), PROMPTS, greedy).token_ids
    tokens = [token for answer in plain for token in answer]
    assert found.coverage == pytest.approx(sum(token % 2 == 0 for token in tokens) / len(tokens))
    for row in found.acceptance[::2]:
        draft = drafts[BASE].draft
        engine = Engine(
            tiny_target, draft, draft.head(tiny_target.lm_head, vocab_W), num_draft_tokens=3, max_batch=4, max_tokens=80
        )
        params = dataclasses.replace(own_params(tiny_target.defaults), temperature=row.temperature, max_new_tokens=24)
        stats = decode_all(engine, PROMPTS, params).stats
        rounds, accepted = sum(s.num_rounds for s in stats), sum(s.num_accepted_tokens for s in stats)
        assert (row.num_rounds, row.acceptance_length) == (rounds, pytest.approx(1 + accepted / rounds))
    assert [(row.mode, row.temperature) for row in found.speed] == [
        (mode, t) for t in (0.0, 1.0) for mode in ("autoregressive", BASE, ADAPTED)
    ]
    alone = measure(tiny_target, {BASE: drafts[BASE]}, PROMPTS, SETTINGS, timed=False)
    assert alone.speed == ()
    assert alone.acceptance == found.acceptance[::2]
    with pytest.raises(DatasetInvalidError, match="no prompt is left"):
        measure(tiny_target, drafts, [], SETTINGS)


def row(draft: str, length: float, temperature: float = 0.0) -> AcceptanceRow:
    return AcceptanceRow(
        draft=draft, temperature=temperature, mean_accepted=length - 1, acceptance_length=length,
        acceptance_rate=0.5, acceptance_by_position=(0.5,), num_rounds=10, num_new_tokens=20,
    )  # fmt: skip


def speed(ratio: float) -> SpeedRow:
    return SpeedRow(
        mode=BASE, num_draft_tokens=5, temperature=0.0, tokens_per_s=10, speedup_over_autoregressive=ratio,
        speedup_min=ratio, speedup_max=ratio,
    )  # fmt: skip


KEPT = "it keeps 97% of its acceptance (2.85 of 2.93 tokens a round): adapting would gain at most 3%"
LOST = "it keeps 75% of its acceptance (2.10 of 2.80 tokens a round): adapting can gain up to 33%"
ADVICE: dict[str, tuple[Measurement, str]] = {
    "little lost": (
        Measurement(num_prompts=8, acceptance=(row(BASE, 2.85),), base_acceptance=(row(BASE, 2.93),)),
        f"{KEPT}, so use the draft as it is",
    ),
    "nothing lost": (
        Measurement(num_prompts=8, acceptance=(row(BASE, 3.0),), base_acceptance=(row(BASE, 2.5),)),
        "it keeps 120% of its acceptance (3.00 of 2.50 tokens a round): adapting would gain at most 0%, so use the "
        "draft as it is",
    ),
    "much lost": (
        Measurement(num_prompts=8, acceptance=(row(BASE, 2.1),), base_acceptance=(row(BASE, 2.8),)),
        f"{LOST}, so adapt it",
    ),
    "another temperature is no comparison": (
        Measurement(num_prompts=8, acceptance=(row(BASE, 2.1),), base_acceptance=(row(BASE, 2.8, 1.0),)),
        "it accepts 2.10 tokens a round; name its own target as the base target to learn how much of it was lost on "
        "the way to this one",
    ),
    "hardly drafts": (
        Measurement(num_prompts=8, acceptance=(row(BASE, 1.2),)),
        "it accepts 1.20 tokens a round, which is little: adapt it, or look first whether it is for this target "
        "(eda drafts check)",
    ),
    "narrow and slow": (
        Measurement(
            num_prompts=8, acceptance=(row(BASE, 2.1),), base_acceptance=(row(BASE, 2.8),), coverage=0.9,
            speed=(speed(0.93),),
        ),
        f"{LOST}, so adapt it; its vocabulary has 90% of the tokens that the target writes, and each of the "
        "others ends a round; in this engine it is slower than no draft at all (0.93x)",
    ),
    "a pack": (
        Measurement(
            num_prompts=8, acceptance=(row(BASE, 2.0), row(ADAPTED, 2.5)), base_acceptance=(row(BASE, 2.5),),
            speed=(speed(0.9),),
        ),
        "the pack takes it from 2.00 to 2.50 tokens a round (+25%), 100% of what the draft has on its own target",
    ),
    "a pack that loses": (
        Measurement(num_prompts=8, acceptance=(row(BASE, 2.0), row(ADAPTED, 1.9))),
        "the pack takes it from 2.00 to 1.90 tokens a round (-5%): use the draft without the pack",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("found", "wanted"), ADVICE.values(), ids=ADVICE)
def test_what_is_advised(found: Measurement, wanted: str) -> None:
    assert advise(found) == wanted


def test_two_targets_make_a_measurement() -> None:
    here = Measured(8, (row(BASE, 2.1), row(BASE, 1.9, 1.0)), (), 0.99)
    there = Measured(8, (row(BASE, 2.8), row(BASE, 2.2, 1.0)), (), 0.97)
    found = conclude(here, there, machine={"cores": "2"})
    assert found.kept == pytest.approx(0.75)
    assert found.most_gain == pytest.approx(4 / 3)
    assert (found.coverage, found.base_coverage, found.num_prompts) == (0.99, 0.97, 8)
    assert found.advice == f"{LOST}, so adapt it"
    assert Measurement.model_validate_json(found.model_dump_json()) == found
    alone = conclude(here, machine={})
    assert (alone.kept, alone.most_gain, alone.base_acceptance) == (None, None, ())
