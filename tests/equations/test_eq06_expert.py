"""Eq. 6: E(h) = U phi(V h) as SwiGLU.

Oracles: one expert worked out by hand; transformers' own LlamaMLP with the same weights.

Shapes: B rows, D hidden, F expert width.
"""

from __future__ import annotations

import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

from eda_service.drafts.expert import Expert


def test_one_neuron_by_hand() -> None:
    """V = ((1, 0), (0, 2)), U = (1, -1)^T, h = (1, 3): silu(1) * 6 = 4.386351, so E(h) = (4.386351, -4.386351)."""
    expert = Expert(2, 1)
    with torch.no_grad():
        expert.gate_proj.weight.copy_(torch.tensor([[1.0, 0.0]]))
        expert.up_proj.weight.copy_(torch.tensor([[0.0, 2.0]]))
        expert.down_proj.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    inner = 1 / (1 + math.exp(-1)) * 6
    assert inner == pytest.approx(4.386351, abs=1e-6)
    assert expert(torch.tensor([1.0, 3.0])).tolist() == pytest.approx([inner, -inner], rel=1e-6)


def test_equals_the_family_s_own_mlp() -> None:
    """Same parameter names, same function: a base draft's FFN is a shared expert as it stands."""
    torch.manual_seed(0)
    reference = LlamaMLP(LlamaConfig(hidden_size=16, intermediate_size=24, num_attention_heads=4, hidden_act="silu"))
    expert = Expert(16, 24)
    expert.load_state_dict(reference.state_dict())
    hidden_BD = torch.randn(5, 16)
    assert torch.allclose(expert(hidden_BD), reference(hidden_BD), atol=1e-6)
    assert expert(hidden_BD).abs().max() > 1e-3


def test_has_no_bias() -> None:
    assert not Expert(4, 3)(torch.zeros(2, 4)).any()
