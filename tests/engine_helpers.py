"""What the engine's tests share: prompts, a call that decodes them all, a speculative engine, transformers' answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.request import SamplingParams, StepOutput
from eda_service.drafts.draft import Draft
from eda_service.targets.loader import Target

DraftMaker = Callable[[str], Draft]
TargetMaker = Callable[[str], Target]


def make_prompts(count: int, *, seed: int = 0) -> list[list[int]]:
    """Prompts of 1 to 12 ordinary tokens."""
    rng = random.Random(seed)
    return [[rng.randrange(3, 112) for _ in range(rng.randint(1, 12))] for _ in range(count)]


def answer(outputs: Sequence[StepOutput]) -> list[int]:
    return [token for output in outputs for token in output.new_token_ids]


def decode(engine: Engine, prompts: Sequence[list[int]], params: Sequence[SamplingParams]) -> list[list[int]]:
    for i, (ids, each) in enumerate(zip(prompts, params, strict=True)):
        engine.submit(str(i), ids, each)
    done = run_to_end(engine)
    return [answer(done[str(i)]) for i in range(len(prompts))]


def reference_answer(model: PreTrainedModel, target: Target, ids: list[int], max_new_tokens: int) -> list[int]:
    """What transformers' own `generate` answers at T=0."""
    out = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(target.stop_token_ids),
    )
    return [int(token) for token in out[0, len(ids) :]]


def speculative(target: Target, draft: Draft, *, vocab_W: torch.Tensor | None = None, **changes: Any) -> Engine:
    settings: dict[str, Any] = {"num_draft_tokens": 4, "max_batch": 4, "max_tokens": 120} | changes
    return Engine(target, draft, draft.head(target.lm_head, vocab_W), **settings)
