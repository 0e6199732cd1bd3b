"""The gate's mean and the change in acceptance against independent ways to them.

Shapes: T tokens, D hidden, N query heads, H key/value heads, d head width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from eda_service.config.job import Mix
from eda_service.decoding.engine import Engine
from eda_service.decoding.request import SamplingParams
from eda_service.drafts.checkpoint import LoadedDraft
from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import PrivateConfig
from eda_service.drafts.head import DraftHead
from eda_service.drafts.rotary import rotate
from eda_service.drafts.shared_private import SharedPrivateFFN
from eda_service.errors import DatasetInvalidError
from eda_service.evaluation.decode import decode_all
from eda_service.evaluation.replay import Transcript
from eda_service.export.calibration import CalibrationSettings, answer, mean_gate_weights, measure, split
from eda_service.targets.chat.chat import render_prompt
from eda_service.targets.loader import Target

SETTINGS = CalibrationSettings(num_prompts=12, num_draft_tokens=3, max_new_tokens=24)


@pytest.fixture(scope="module")
def transcripts(make_target: Callable[[str], Target]) -> list[Transcript]:
    return answer(make_target("llama"), SETTINGS)


@pytest.fixture
def gated(make_fitted_draft: Callable[[str], Draft]) -> Draft:
    """A draft whose gate moves with its input."""
    draft = copy.deepcopy(make_fitted_draft("llama"))
    draft.add_private(PrivateConfig(private_width=24, mix=Mix.SOFTMAX))
    rng = torch.Generator().manual_seed(2)
    ffn = draft.layer.mlp
    assert isinstance(ffn, SharedPrivateFFN)
    assert ffn.gate is not None
    with torch.no_grad():
        ffn.private.down_proj.weight.copy_(0.1 * torch.randn(32, 24, generator=rng))
        ffn.gate.proj.weight.copy_(0.5 * torch.randn(2, 32, generator=rng))
    return draft.requires_grad_(False)


def gate_weights_by_hand(draft: Draft, target: Target, transcript: Transcript) -> Tensor:
    """Gate weights of every first draft (T-2, 2): one plain causal pass over the pairs (h_t, x_{t+1})."""
    ids_1T, layer = torch.tensor([transcript.token_ids]), draft.layer
    features_1TD = transcript.features_TD[None, : len(transcript.token_ids) - 2]
    x_1TD = draft.fuse(target.embed(ids_1T[:, 1:-1]), features_1TD)
    attention, length = layer.self_attn, x_1TD.shape[1]
    positions_1T = torch.arange(length)[None]
    query, key, value = (
        getattr(attention, f"{name}_proj")(x_1TD).view(1, length, -1, draft.config.head_dim).transpose(1, 2)
        for name in "qkv"
    )
    theta = draft.config.rope_theta
    attended_1NTd = F.scaled_dot_product_attention(
        rotate(query, positions_1T, theta), rotate(key, positions_1T, theta), value, is_causal=True, enable_gqa=True
    )
    hidden_1TD = x_1TD + attention.o_proj(attended_1NTd.transpose(1, 2).flatten(2))
    ffn = layer.mlp
    assert isinstance(ffn, SharedPrivateFFN)
    assert ffn.gate is not None
    return torch.softmax(F.linear(layer.post_attention_layernorm(hidden_1TD), ffn.gate.proj.weight), dim=-1)[0]


def test_the_mean_is_over_the_places_a_draft_starts_from(
    gated: Draft, tiny_target: Target, transcripts: list[Transcript]
) -> None:
    with torch.no_grad():
        kept = [gate_weights_by_hand(gated, tiny_target, each)[each.num_prompt_tokens - 1 :] for each in transcripts]
    wanted = torch.cat(kept).mean(0).tolist()
    got = mean_gate_weights(gated, tiny_target, transcripts, 1)
    assert got == pytest.approx(wanted, abs=1e-5)
    assert abs(got[0] - 0.5) > 0.01
    assert got != pytest.approx(mean_gate_weights(gated, tiny_target, transcripts, 3), abs=1e-5)


def test_the_change_is_what_the_engine_counts(
    gated: Draft, make_fitted_draft: Callable[[str], Draft], tiny_target: Target, transcripts: list[Transcript]
) -> None:
    vocab_W = torch.arange(0, 112, 2)
    drafts = LoadedDraft(make_fitted_draft("llama"), None), LoadedDraft(gated, vocab_W)
    found = measure(tiny_target, *drafts, transcripts, SETTINGS, num_calibration_prompts=0, gate_weights=None)
    lengths = []
    for each in drafts:
        head = DraftHead(tiny_target.lm_head, each.vocab_W)
        engine = Engine(tiny_target, each.draft, head, num_draft_tokens=3, max_batch=4, max_tokens=400)
        prompts = [transcript.token_ids[: transcript.num_prompt_tokens] for transcript in transcripts]
        stats = decode_all(engine, prompts, SamplingParams(max_new_tokens=24)).stats
        lengths.append(1 + sum(s.num_accepted_tokens for s in stats) / sum(s.num_rounds for s in stats))
    assert [found.acceptance_length, found.exported_acceptance_length] == pytest.approx(lengths)
    assert lengths[0] > lengths[1] > 1.0
    assert found.change_fraction == pytest.approx(lengths[1] / lengths[0] - 1)


def test_calibrating_and_measuring_share_no_answer(transcripts: list[Transcript]) -> None:
    calibrating, measuring = split(transcripts)
    assert len(calibrating) + len(measuring) == len(transcripts)
    assert len(calibrating) == -(-len(transcripts) // 4)
    assert not {id(each) for each in calibrating} & {id(each) for each in measuring}
    with pytest.raises(DatasetInvalidError, match=r"1 prompts .* 2 are the least"):
        split(transcripts[:1])


def test_prompts_that_leave_no_room_are_refused(tiny_target: Target) -> None:
    longest = max(len(render_prompt(tiny_target.tokenizer, [{"role": "user", "content": "x" * 480}])), 1)
    assert longest < tiny_target.max_context
    settings = CalibrationSettings(num_prompts=12, max_new_tokens=500)
    with pytest.raises(DatasetInvalidError, match="of 12 prompts are longer than 12 tokens"):
        answer(tiny_target, settings)
