"""EAGLE-3 drafts for tiny targets, that know some of its answers by heart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.request import SamplingParams
from eda_service.drafts.draft_config import Eagle3Config
from eda_service.drafts.eagle3 import Eagle3Draft
from eda_service.targets.loader import Target
from eda_service.training.unroll import unroll

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
    tokens_BL, states_BLC = _answers(target, config, prompts)
    lm_head = target.lm_head.take(vocab_W)
    row_of_V = torch.full((config.vocab_size,), -100)
    ids_W = torch.arange(config.vocab_size) if vocab_W is None else vocab_W.long()
    row_of_V[ids_W] = torch.arange(len(ids_W))
    optimizer = torch.optim.Adam([p for name, p in draft.named_parameters() if "embed_tokens" not in name], lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        losses = []
        for step, state_BSD in enumerate(unroll(draft, target.embed, tokens_BL, states_BLC, 2)):
            wanted_BS = row_of_V[tokens_BL[:, step + 2 :]]
            losses.append(F.cross_entropy(draft.logits(state_BSD, lm_head).flatten(0, 1), wanted_BS.flatten()))
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return draft.requires_grad_(False)


def _answers(target: Target, config: Eagle3Config, prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Prompts with answers (B, L), cut to one length, and the states that the draft reads (B, L, C)."""
    engine = Engine(target, max_batch=24, max_tokens=64, capture_features=True, captures=config.captures)
    for i, ids in enumerate(prompts):
        engine.submit(str(i), ids, SamplingParams(max_new_tokens=_ANSWER))
    rows, states = [], []
    for i, outputs in run_to_end(engine).items():
        tokens = prompts[int(i)] + [token for output in outputs for token in output.new_token_ids]
        if len(tokens) > _ANSWER:
            assert outputs[-1].states is not None
            rows.append(tokens[:_ANSWER])
            states.append(outputs[-1].states.draft_in[:_ANSWER])
    return torch.tensor(rows), torch.stack(states)
