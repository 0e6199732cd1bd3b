"""The dense form of a draft against the gated one: equal where the gate is constant, and in vLLM's names and shapes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from eda_service.config import Mix
from eda_service.export.dense import dense_tensors, export_dense, mean_gate_weights
from eda_service.model.draft import Draft
from eda_service.model.draft_config import PrivateConfig
from eda_service.model.shared_private import SharedPrivateFFN
from eda_service.target.loader import Target


def dense_ffn(tensors: dict[str, Tensor], hidden_ND: Tensor) -> Tensor:
    """SwiGLU as any Llama runs it."""
    gate, up, down = (tensors[f"layers.0.mlp.{name}_proj.weight"].float() for name in ("gate", "up", "down"))
    return F.linear(F.silu(F.linear(hidden_ND, gate)) * F.linear(hidden_ND, up), down)


def adapted(new_draft: Callable[..., Draft], target: Target, *, width: int, mix: Mix) -> Draft:
    draft = new_draft(target, seed=3)
    draft.add_private(PrivateConfig(private_width=width, mix=mix))
    ffn = draft.layer.mlp
    assert isinstance(ffn, SharedPrivateFFN)
    with torch.no_grad():
        for parameter in ffn.private.parameters():
            parameter.normal_(std=0.3)
        for parameter in draft.parameters():
            parameter.copy_(parameter.bfloat16())  # so that only the fold is compared
    return draft.requires_grad_(False)


@pytest.mark.parametrize("mix", list(Mix))
@pytest.mark.parametrize("width", [48, 24])
def test_a_constant_gate_folds_exactly(
    mix: Mix, width: int, tiny_target: Target, new_draft: Callable[..., Draft]
) -> None:
    """A fresh gate is even whatever its input; a sum has none."""
    draft = adapted(new_draft, tiny_target, width=width, mix=mix)
    hidden_ND = torch.randn(20, 32, generator=torch.Generator().manual_seed(0))
    weights = mean_gate_weights(draft, hidden_ND)
    assert weights == ((0.5, 0.5) if mix is Mix.SOFTMAX else (1.0, 1.0))
    torch.testing.assert_close(
        dense_ffn(dense_tensors(draft, weights), hidden_ND), draft.layer.mlp(hidden_ND), rtol=2e-2, atol=2e-2
    )


def test_a_learned_gate_is_held_at_its_mean(tiny_target: Target, new_draft: Callable[..., Draft]) -> None:
    draft = adapted(new_draft, tiny_target, width=48, mix=Mix.SOFTMAX)
    ffn = draft.layer.mlp
    assert isinstance(ffn, SharedPrivateFFN)
    assert ffn.gate is not None
    with torch.no_grad():
        ffn.gate.proj.weight.normal_(std=0.5)
    hidden_ND = torch.randn(50, 32, generator=torch.Generator().manual_seed(1))
    shared, private = mean_gate_weights(draft, hidden_ND)
    assert shared + private == pytest.approx(1.0)
    wanted = shared * ffn.shared(hidden_ND) + private * ffn.private(hidden_ND)
    got = dense_ffn(dense_tensors(draft, (shared, private)), hidden_ND)
    torch.testing.assert_close(got, wanted, rtol=2e-2, atol=3e-2)


def test_the_files_are_those_of_an_eagle_draft(
    tmp_path: Path, tiny_target: Target, new_draft: Callable[..., Draft]
) -> None:
    draft = adapted(new_draft, tiny_target, width=24, mix=Mix.SOFTMAX)
    export_dense(tmp_path, draft, (0.5, 0.5), max_context=512)
    tensors = load_file(tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    assert set(tensors) == {
        "fc.weight",
        "layers.0.self_attn.q_proj.weight",
        "layers.0.self_attn.k_proj.weight",
        "layers.0.self_attn.v_proj.weight",
        "layers.0.self_attn.o_proj.weight",
        "layers.0.post_attention_layernorm.weight",
        "layers.0.mlp.gate_proj.weight",
        "layers.0.mlp.up_proj.weight",
        "layers.0.mlp.down_proj.weight",
    }
    assert config["intermediate_size"] == 48 + 24
    assert tensors["layers.0.mlp.down_proj.weight"].shape == (32, 72)
    assert all(tensor.dtype == torch.bfloat16 for tensor in tensors.values())


def test_a_base_draft_is_dense_already(tiny_target: Target, tiny_draft: Draft) -> None:
    hidden_ND = torch.randn(5, 32)
    assert mean_gate_weights(tiny_draft, hidden_ND) == (1.0, 0.0)
    tensors = dense_tensors(tiny_draft, (1.0, 0.0))
    torch.testing.assert_close(
        dense_ffn(tensors, hidden_ND), tiny_draft.layer.mlp(hidden_ND).detach(), rtol=3e-2, atol=3e-2
    )
