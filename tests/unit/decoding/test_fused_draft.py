"""The draft's decoding form against the modules it is made from, for every form a pack can have.

Oracle: `unroll`'s first step, the training forward (itself held against transformers in `equations/test_eq07`).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from eda_service.config.job import Mix
from eda_service.decoding.fused.kinds import adapted_parts, shared_parts, whole_parts
from eda_service.decoding.fused.protocol import DecodingDraft
from eda_service.decoding.proposal import Proposer
from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import PrivateConfig
from eda_service.drafts.head import DraftHead
from eda_service.drafts.unroll import unroll
from eda_service.targets.loader import Target


@pytest.mark.parametrize("mix", list(Mix))
@pytest.mark.parametrize("width", [48, 24], ids=["full width", "half width"])
@pytest.mark.parametrize("shared", [False, True], ids=["whole", "over a shared base"])
@pytest.mark.parametrize("attention", [False, True], ids=["its attention", "own attention"])
@torch.no_grad()
def test_an_adapted_draft_decodes_as_it_was_trained(
    attention: bool, shared: bool, mix: Mix, width: int, tiny_target: Target, new_draft: Callable[..., Draft]
) -> None:
    """Gate and private expert random, so that neither is neutral."""
    draft = new_draft(tiny_target, seed=4)
    base = shared_parts(draft)
    draft.add_private(PrivateConfig(private_width=width, mix=mix))
    rng = torch.Generator().manual_seed(0)
    trained = {"fc.weight": draft.fc.weight, **dict(draft.layer.mlp.named_parameters(prefix="layers.0.mlp"))}
    if attention:
        trained |= dict(draft.layer.self_attn.named_parameters(prefix="layers.0.self_attn"))
    trained = {name: p for name, p in trained.items() if ".shared." not in name}
    for parameter in trained.values():
        parameter.normal_(std=0.3, generator=rng)
    tokens_BL = torch.randint(3, 112, (2, 9), generator=rng)
    features_BLD = torch.randn(2, 9, 32, generator=rng)
    wanted_BSD = next(unroll(draft, tiny_target.embed, tokens_BL, features_BLD, 1))
    parts = adapted_parts(draft, base, frozenset(trained)) if shared else whole_parts(draft)
    decoding_draft = DecodingDraft(parts, DraftHead(tiny_target.lm_head, None))
    proposer = Proposer(decoding_draft, tiny_target.embed, num_slots=2, max_tokens=32)
    got_BLD = proposer.extend(tokens_BL[:, 1:], features_BLD[:, :-1], [0, 0])
    torch.testing.assert_close(got_BLD[:, : wanted_BSD.shape[1]], wanted_BSD, rtol=1e-4, atol=1e-4)
