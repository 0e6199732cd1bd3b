"""Eq. 7: P = softmax(W_o h~): fc, one decoder layer without input norm, then the tuned target's own lm_head.

Oracle: transformers' LlamaDecoderLayer with its input norm replaced by the identity and the draft's weights, causal
mask and rotary tables made by transformers; logits by a plain matrix product with the target's weight.

Shapes: B rows, L positions, D hidden, V vocabulary, K draft tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from eda_service.decoding.proposal import Pending, Proposer
from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import DraftConfig
from eda_service.drafts.head import DraftHead
from eda_service.drafts.unroll import unroll
from eda_service.targets.loader import Target


def llama_layer(draft: Draft) -> tuple[LlamaDecoderLayer, LlamaRotaryEmbedding]:
    shape: DraftConfig = draft.config
    config = LlamaConfig(
        hidden_size=shape.hidden_size,
        intermediate_size=shape.expert_width,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        rms_norm_eps=shape.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        attn_implementation="eager",
    )
    layer = LlamaDecoderLayer(config, 0)
    layer.input_layernorm = nn.Identity()
    layer.load_state_dict(draft.layer.state_dict())  # strict: the names are the family's own
    return layer.eval(), LlamaRotaryEmbedding(config)


@torch.no_grad()
def oracle_features(draft: Draft, embeds_BLD: Tensor, features_BLD: Tensor) -> Tensor:
    """What transformers gives for pairs (embedding of x_{t+1}, h_t) at positions 0.."""
    layer, rotary = llama_layer(draft)
    length = embeds_BLD.shape[1]
    x_BLD = torch.cat([embeds_BLD, features_BLD], dim=-1) @ draft.fc.weight.T
    positions_1L = torch.arange(length)[None]
    mask = torch.full((length, length), float("-inf")).triu(1)[None, None]
    out = layer(x_BLD, attention_mask=mask, position_embeddings=rotary(x_BLD, positions_1L), position_ids=positions_1L)
    return out if isinstance(out, Tensor) else out[0]


@pytest.fixture
def draft(
    request: pytest.FixtureRequest, make_target: Callable[[str], Target], new_draft: Callable[..., Draft]
) -> Draft:
    made = new_draft(make_target(request.param), seed=5)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3) if parameter.ndim == 2 else parameter.uniform_(0.7, 1.3)
    return made.requires_grad_(False)


# The Llama's heads have D / N columns, the Qwen3's are wider than that.
both_head_widths = pytest.mark.parametrize("draft", ["llama", "qwen3"], indirect=True)


def pairs(draft: Draft, target: Target, length: int = 9) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(11)
    tokens_BL = torch.randint(3, 112, (2, length), generator=rng)
    return tokens_BL, torch.randn(2, length, draft.config.hidden_size, generator=rng)


@both_head_widths
def test_decoding_forward_equals_transformers(draft: Draft, tiny_target: Target) -> None:
    tokens_BL, features_BLD = pairs(draft, tiny_target)
    head = DraftHead(tiny_target.lm_head, None)
    proposer = Proposer.of(draft, tiny_target.embed, head, num_slots=2, max_tokens=32)
    with torch.no_grad():
        got_BLD = proposer.extend(tokens_BL, features_BLD, [0, 0])
    wanted_BLD = oracle_features(draft, tiny_target.embed(tokens_BL), features_BLD)
    torch.testing.assert_close(got_BLD, wanted_BLD, rtol=1e-4, atol=1e-4)


@both_head_widths
def test_decoding_in_pieces_equals_transformers_at_once(draft: Draft, tiny_target: Target) -> None:
    """Rows at different positions, as between rounds: the cache and positions carry over."""
    tokens_BL, features_BLD = pairs(draft, tiny_target)
    head = DraftHead(tiny_target.lm_head, None)
    proposer = Proposer.of(draft, tiny_target.embed, head, num_slots=2, max_tokens=32)
    with torch.no_grad():
        proposer.extend(tokens_BL[:1, :3], features_BLD[:1, :3], [0], first_slot=0)
        proposer.extend(tokens_BL[1:, :6], features_BLD[1:, :6], [0], first_slot=1)
        ragged_B3 = torch.stack([tokens_BL[0, 3:6], tokens_BL[1, 6:9]])
        ragged_B3D = torch.stack([features_BLD[0, 3:6], features_BLD[1, 6:9]])
        got_B3D = proposer.extend(ragged_B3, ragged_B3D, [3, 6])
    wanted_BLD = oracle_features(draft, tiny_target.embed(tokens_BL), features_BLD)
    torch.testing.assert_close(got_B3D[0], wanted_BLD[0, 3:6], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got_B3D[1], wanted_BLD[1, 6:9], rtol=1e-4, atol=1e-4)


@both_head_widths
def test_training_forward_equals_transformers(draft: Draft, tiny_target: Target) -> None:
    """`unroll`'s first step is the same function: row s reads x_{s+1} and h_s."""
    tokens_BL, features_BLD = pairs(draft, tiny_target)
    with torch.no_grad():
        got_BSD = next(unroll(draft, tiny_target.embed, tokens_BL, features_BLD, 1))
    wanted_BLD = oracle_features(draft, tiny_target.embed(tokens_BL[:, 1:]), features_BLD[:, :-1])
    torch.testing.assert_close(got_BSD, wanted_BLD[:, :-1], rtol=1e-4, atol=1e-4)


@both_head_widths
def test_unrolled_steps_equal_transformers_fed_its_own_features(draft: Draft, tiny_target: Target) -> None:
    """Step j of row s is what transformers gives for the sequence h_0..h_s and then its own j features."""
    tokens_BL, features_BLD = pairs(draft, tiny_target)
    embeds_BLD = tiny_target.embed(tokens_BL)
    with torch.no_grad():
        steps = list(unroll(draft, tiny_target.embed, tokens_BL, features_BLD, 3))
    for start in (0, 2, 4):
        inputs = [features_BLD[:, i] for i in range(start + 1)]
        for step in range(3):
            shown_BLD = torch.stack(inputs, dim=1)
            length = shown_BLD.shape[1]
            wanted_BLD = oracle_features(draft, embeds_BLD[:, 1 : 1 + length], shown_BLD)
            torch.testing.assert_close(steps[step][:, start], wanted_BLD[:, -1], rtol=1e-3, atol=1e-3)
            inputs.append(wanted_BLD[:, -1])


def test_logits_come_from_the_target_s_own_head(make_target: Callable[[str], Target]) -> None:
    for family in ("llama", "qwen2"):  # tied and untied
        target = make_target(family)
        features_BD = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
        wanted_BV = features_BD.double() @ target.head_weight.double().T
        torch.testing.assert_close(
            DraftHead(target.lm_head, None)(features_BD).double(), wanted_BV, rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(target.head(features_BD).double(), wanted_BV, rtol=1e-4, atol=1e-4)


def test_head_and_embedding_are_never_the_draft_s_parameters(tiny_draft: Draft) -> None:
    """Nothing of the draft has vocabulary size: W_o and the embedding are passed in, never stored."""
    assert all(tiny_draft.config.vocab_size not in p.shape for p in tiny_draft.parameters())
    assert {name for name, _ in tiny_draft.named_parameters()} == {
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


def test_greedy_chain_is_the_argmax_of_the_head_over_the_chain_of_features(
    tiny_target: Target, make_fitted_draft: Callable[[str], Draft]
) -> None:
    """`chain` against transformers: each token is argmax(W_o h~) and is fed back with its feature."""
    draft = make_fitted_draft("llama")
    tokens_BL, features_BLD = pairs(draft, tiny_target, 4)
    proposer = Proposer.of(draft, tiny_target.embed, DraftHead(tiny_target.lm_head, None), num_slots=2, max_tokens=32)
    with torch.no_grad():
        got_BK = proposer.chain(Pending(tokens_BL, features_BLD, [0, 0], [4, 4]), 3).token_ids_BK
    embeds_BLD, shown_BLD = tiny_target.embed(tokens_BL), features_BLD
    for k in range(3):
        feature_BD = oracle_features(draft, embeds_BLD, shown_BLD)[:, -1]
        wanted_B = (feature_BD @ tiny_target.head_weight.T).argmax(-1)
        assert torch.equal(got_BK[:, k], wanted_B)
        embeds_BLD = torch.cat([embeds_BLD, tiny_target.embed(wanted_B)[:, None]], dim=1)
        shown_BLD = torch.cat([shown_BLD, feature_BD[:, None]], dim=1)
