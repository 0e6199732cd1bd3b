"""The dense form of a draft against the gated one: equal where the gate is constant.

Shapes: N inputs of the FFN, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from eda_service.config.job import Mix
from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import PrivateConfig
from eda_service.drafts.expert import Expert
from eda_service.drafts.shared_private import SharedPrivateFFN
from eda_service.export.dense import fold, is_gated
from eda_service.targets.loader import Target


def adapted(draft: Draft, *, width: int, mix: Mix) -> SharedPrivateFFN:
    """Give a draft a private expert that does something; returns its FFN."""
    draft.add_private(PrivateConfig(private_width=width, mix=mix))
    ffn = draft.layer.mlp
    assert isinstance(ffn, SharedPrivateFFN)
    with torch.no_grad():
        for parameter in ffn.private.parameters():
            parameter.normal_(std=0.3)
    return ffn


@pytest.mark.parametrize("mix", list(Mix))
@pytest.mark.parametrize("width", [48, 24])
def test_a_constant_gate_folds_exactly(mix: Mix, width: int, tiny_draft: Draft) -> None:
    """A fresh gate is even whatever its input; a sum has none."""
    ffn = adapted(tiny_draft, width=width, mix=mix)
    hidden_ND = torch.randn(20, 32, generator=torch.Generator().manual_seed(0))
    folded = fold(tiny_draft, (0.5, 0.5) if mix is Mix.SOFTMAX else (1.0, 1.0))
    assert isinstance(folded.layer.mlp, Expert)
    assert folded.config.expert_width == 48 + width
    torch.testing.assert_close(folded.layer.mlp(hidden_ND), ffn(hidden_ND), rtol=1e-5, atol=1e-5)
    assert is_gated(tiny_draft) is (mix is Mix.SOFTMAX)


def test_a_learned_gate_is_held(tiny_draft: Draft) -> None:
    ffn = adapted(tiny_draft, width=24, mix=Mix.SOFTMAX)
    hidden_ND = torch.randn(50, 32, generator=torch.Generator().manual_seed(1))
    wanted = 2.0 * (0.7 * ffn.shared(hidden_ND) + 0.3 * ffn.private(hidden_ND))
    got = fold(tiny_draft, (0.7, 0.3)).layer.mlp(hidden_ND)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_what_is_no_ffn_stays(tiny_draft: Draft) -> None:
    adapted(tiny_draft, width=24, mix=Mix.SOFTMAX)
    folded, own = fold(tiny_draft, (0.5, 0.5)).state_dict(), tiny_draft.state_dict()
    outside = {name for name in own if ".mlp." not in name}
    assert len(outside) == 6
    assert all(torch.equal(folded[name], own[name]) for name in outside)


def test_a_base_draft_is_dense_already(tiny_target: Target, new_draft: Callable[..., Draft]) -> None:
    draft = new_draft(tiny_target, seed=3)
    folded = fold(draft, (1.0, 1.0))
    assert not is_gated(draft)
    assert all(torch.equal(folded.state_dict()[name], tensor) for name, tensor in draft.state_dict().items())
    assert folded is not draft
