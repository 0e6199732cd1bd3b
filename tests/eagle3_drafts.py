"""Drafts for tiny targets that know some of their answers by heart; most are EAGLE-3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eda_service.config.loss import DistributionLoss, LossConfig
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.request import SamplingParams
from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import DraftConfig, Eagle3Config
from eda_service.drafts.eagle3 import Eagle3Draft
from eda_service.targets.loader import Target
from eda_service.training.batches import Batch
from eda_service.training.loss import DraftLoss

_ANSWER = 24


def eagle3_config(target: Target, **changes: Any) -> Eagle3Config:
    """A shape for a tiny target of eight layers: the default ones, the whole vocabulary, unless told otherwise."""
    config = target.config
    fields: dict[str, Any] = {
        "layers": (2, 4, 5),
        "hidden_size": config.hidden_size,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 32,
        "expert_width": 80,
        "vocab_size": config.vocab_size,
        "draft_vocab_size": config.vocab_size,
        "rope_theta": 10_000.0,
        "rms_norm_eps": 1e-5,
    }
    return Eagle3Config.model_validate(fields | changes)


def fit_eagle3(
    target: Target,
    config: Eagle3Config,
    vocab_W: Tensor | None,
    prompts: Sequence[list[int]],
    *,
    steps: int = 60,
    seed: int = 0,
) -> Eagle3Draft:
    """A draft in float32 that learns the target's greedy answers to some prompts by heart; a random target's answers
    to others say nothing about them.

    Args:
        target: Whose answers.
        config: Shape.
        vocab_W: Tokens that it scores; None: all.
        prompts: Of one or more tokens each.
        steps: Of training.
        seed: Of the weights; norms are random, too.
    """
    torch.manual_seed(seed)
    draft = Eagle3Draft(config)
    with torch.no_grad():
        for module in draft.modules():
            if isinstance(module, nn.RMSNorm):
                module.weight.uniform_(0.6, 1.4)
            elif isinstance(module, nn.Embedding):
                module.weight.normal_(std=0.35)
    learn(draft, target, vocab_W, prompts, steps=steps)
    return draft.requires_grad_(False)


def learn(
    draft: Draft, target: Target, vocab_W: Tensor | None, prompts: Sequence[list[int]], *, steps: int = 60
) -> None:
    """Train all of a draft but its embedding on the target's greedy answers.

    Args:
        draft: Changed in place.
        target: Whose answers.
        vocab_W: Tokens that it scores; None: all.
        prompts: Of one or more tokens each.
        steps: Of training.
    """
    batch, lm_head = _answers(target, draft.config, prompts), target.lm_head.take(vocab_W)
    settings = LossConfig(distribution=DistributionLoss.TOKENS, cross_entropy_weight=1.0, unroll_steps=2)
    loss = DraftLoss(draft, settings, vocab_W)
    optimizer = torch.optim.Adam([p for name, p in draft.named_parameters() if "embed_tokens" not in name], lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(batch, target.embed, lm_head).total.backward()
        optimizer.step()


def _answers(target: Target, config: DraftConfig, prompts: Sequence[list[int]]) -> Batch:
    """Prompts with answers, cut to one length."""
    engine = Engine(target, max_batch=24, max_tokens=64, capture_features=True, captures=config.captures)
    for i, ids in enumerate(prompts):
        engine.submit(str(i), ids, SamplingParams(max_new_tokens=_ANSWER))
    rows, known = [], []
    for i, outputs in run_to_end(engine).items():
        tokens = prompts[int(i)] + [token for output in outputs for token in output.new_token_ids]
        if len(tokens) > _ANSWER:
            states = outputs[-1].states
            assert states is not None
            rows.append(tokens[:_ANSWER])
            known.append(states[:_ANSWER])
    mask_BL = torch.ones(len(rows), _ANSWER, dtype=torch.bool)
    # Clones: what an engine gives was made in inference mode.
    draft_in, head_in = (
        torch.stack([getattr(each, name) for each in known]).clone() for name in ("draft_in", "head_in")
    )
    return Batch(torch.tensor(rows), draft_in, mask_BL, mask_BL.clone(), head_in)
