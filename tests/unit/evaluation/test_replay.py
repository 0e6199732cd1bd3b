"""Replayed acceptance against the engine's own counts: the same rounds, without a verification."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from eda_service.config.job import TreeConfig
from eda_service.decoding.engine import Engine
from eda_service.decoding.request import RequestStats, SamplingParams
from eda_service.drafts.draft import Draft
from eda_service.drafts.head import DraftHead
from eda_service.engines.own import OwnEngine
from eda_service.errors import InputError
from eda_service.evaluation.decode import decode_all
from eda_service.evaluation.replay import Replay, transcribe
from eda_service.targets.loader import Target

TREE = TreeConfig(size=9, depth=3, width=4)
PROMPTS = [[3 + (7 * i + j) % 100 for j in range(1 + 5 * i % 23)] for i in range(9)]


@pytest.mark.parametrize("vocab_W", [None, torch.arange(0, 112, 2)], ids=["full", "half"])
@pytest.mark.parametrize(
    ("tree", "temperature"), [(None, 0.0), (TREE, 0.0), (TREE, 1.0)], ids=["chain", "tree", "sampled tree"]
)
def test_counts_are_those_of_decoding(
    tree: TreeConfig | None,
    temperature: float,
    vocab_W: torch.Tensor | None,
    tiny_target: Target,
    make_fitted_draft: Callable[[str], Draft],
) -> None:
    draft, head = make_fitted_draft("llama"), DraftHead(tiny_target.lm_head, vocab_W)
    params = SamplingParams(temperature=temperature, max_new_tokens=30)
    speculative = Engine(tiny_target, draft, head, num_draft_tokens=4, tree=tree, max_batch=4, max_tokens=120)
    decoded = decode_all(speculative, PROMPTS, params).stats
    transcripts = transcribe(OwnEngine(tiny_target), PROMPTS, params, batch_size=4)
    replay = Replay(draft, tiny_target.embed, head, num_draft_tokens=4, tree=tree, batch_size=4)
    replayed = replay.run(transcripts, temperature)
    assert [counts(each) for each in replayed] == [counts(each) for each in decoded]
    assert sum(each.num_accepted_tokens for each in replayed) > 3


def counts(stats: RequestStats) -> dict[str, object]:
    """A request's counts; the first token comes from the prefill and is no round's."""
    found = dataclasses.asdict(stats)
    found["num_new_tokens"] = stats.num_rounds + stats.num_accepted_tokens
    found["accepted_histogram"] = stats.accepted_histogram or [0]
    del found["queue_s"], found["prefill_s"]  # times; a replay has none
    return found


def test_a_sampled_chain_is_refused(tiny_target: Target, make_fitted_draft: Callable[[str], Draft]) -> None:
    replay = Replay(make_fitted_draft("llama"), tiny_target.embed, DraftHead(tiny_target.lm_head, None))
    with pytest.raises(InputError, match=r"temperature 1\.0 .* decode instead"):
        replay.run([], 1.0)
