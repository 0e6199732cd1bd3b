"""Drafts trained for a moment on what a target answers greedily to given prompts: good there, and under the flags they
were trained with.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eda_service.config.job import SelfGenConfig
from eda_service.config.loss import DistributionLoss, LossConfig
from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import DraftConfig
from eda_service.drafts.kinds import make_draft
from eda_service.engines.own import OwnEngine
from eda_service.selfgen.generate import generate
from eda_service.selfgen.prompts import Prompt
from eda_service.storage.samples.shards import Sample
from eda_service.targets.loader import Target
from eda_service.training.batches import collate
from eda_service.training.loss import DraftLoss


def user_prompts(texts: Sequence[str]) -> list[Prompt]:
    """One user's turn each."""
    return [Prompt(id=str(n), messages=[{"role": "user", "content": text}]) for n, text in enumerate(texts)]


def overfit_draft(
    target: Target, config: DraftConfig, vocab_W: Tensor | None, texts: Sequence[str], *, steps: int, tokens: int
) -> tuple[Draft, list[Sample]]:
    """The draft, without gradients, and the answers of so many tokens that it has learnt."""
    settings = SelfGenConfig(temperature=0.0, max_new_tokens=tokens)
    samples = generate(OwnEngine(target), user_prompts(texts), settings, seed=0, captures=config.captures).samples
    batch = collate(samples, max_tokens=512, dtype=torch.float32)
    torch.manual_seed(0)
    draft = make_draft(config)
    loss = DraftLoss(draft, LossConfig(unroll_steps=2, distribution=DistributionLoss.TOKENS), vocab_W)
    optimizer, lm_head = torch.optim.Adam(draft.parameters(), lr=5e-3), target.lm_head.take(vocab_W)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(batch, target.embed, lm_head).total.backward()
        optimizer.step()
    return draft.requires_grad_(False), samples
