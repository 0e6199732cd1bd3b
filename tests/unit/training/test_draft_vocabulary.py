"""What a draft's own vocabulary covers of a target's text, and the rows that an adaptation adds to its head."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from eda_service.config.job import Method, TrainConfig
from eda_service.decoding.fused.kinds import adapted_parts, shared_parts
from eda_service.decoding.fused.protocol import DecodingDraft
from eda_service.decoding.proposal import Pending, Proposer
from eda_service.drafts.checkpoint import load_pack, read_draft_vocab, save_base_draft, save_pack
from eda_service.drafts.coverage import coverage
from eda_service.drafts.draft_config import parse_draft_config
from eda_service.drafts.freezing import prepare, trained_state
from eda_service.drafts.kinds import make_draft
from eda_service.errors import InputError
from eda_service.targets.loader import Target
from eda_service.training.vocabulary import extend_vocabulary

SHAPE = {
    "kind": "eagle3", "hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "expert_width": 48,
    "vocab_size": 112, "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "layers": [1, 2], "draft_vocab_size": 60,
}  # fmt: skip


def test_coverage_counts_tokens_not_kinds_of_tokens() -> None:
    vocab_W = torch.tensor([1, 2, 3])
    covered = coverage(vocab_W, [[1, 1, 1, 9], [2, 8, 8, 3]])
    assert covered.share == 5 / 8
    assert dict(covered.missing) == {9: 1, 8: 2}
    assert extend_vocabulary(vocab_W, covered.missing, 1, 10).tolist() == [1, 2, 3, 8]
    assert extend_vocabulary(vocab_W, covered.missing, 2, 10).tolist() == [1, 2, 3, 8, 9]
    assert extend_vocabulary(vocab_W, covered.missing, 4, 10).tolist() == [1, 2, 3, 0, 4, 8, 9]
    with pytest.raises(InputError, match="lacks only 7 of the target's 10 tokens"):
        extend_vocabulary(vocab_W, covered.missing, 8, 10)
    assert coverage(vocab_W, []).share == coverage(None, [[7]]).share == 1.0


@pytest.mark.parametrize("method", [Method.EDA, Method.LORA, Method.FULL_FT])
@torch.no_grad()
def test_added_rows_are_the_targets_and_reach_the_decoder(method: Method, tiny_target: Target, tmp_path: Path) -> None:
    torch.manual_seed(0)
    draft, vocab_W = make_draft(parse_draft_config(json.dumps(SHAPE))), torch.arange(3, 63)
    save_base_draft(tmp_path, draft, vocab_W)
    assert read_draft_vocab(tmp_path).tolist() == vocab_W.tolist()
    train = TrainConfig(method=method, extend_draft_vocab=5)
    packed = prepare(copy.deepcopy(draft), train, seed=0)
    added_W = torch.tensor([0, 1, 70, 80, 90])
    packed.begin_added(tiny_target.lm_head.take(added_W))
    assert "lm_head_added.weight" in trained_state(packed)
    extended_W = torch.cat([vocab_W, added_W])
    save_pack(tmp_path, packed, train, extended_W)
    loaded = load_pack(tmp_path, tmp_path, dtype=torch.float32)
    assert loaded.vocab_W.tolist() == extended_W.tolist()
    assert not loaded.has_head_of_base
    head, state_1D = loaded.draft.head(tiny_target.lm_head, loaded.vocab_W), torch.randn(1, 32)
    read_1D = torch.nn.functional.rms_norm(state_1D, (32,), eps=1e-5)
    wanted = torch.cat([draft.get_submodule("lm_head").weight, tiny_target.lm_head.rows_VD[added_W]]).bfloat16().float()
    torch.testing.assert_close(head(state_1D), read_1D @ wanted.T, rtol=1e-3, atol=1e-3)
    assert head.to_token_ids(torch.tensor([0, 59, 60, 64])).tolist() == [3, 62, 0, 90]
    probs = torch.softmax(head(state_1D), dim=-1)
    full = head.scatter_probs(probs)
    assert torch.equal(full[0, extended_W], probs[0])
    assert full.sum() == pytest.approx(1.0, rel=1e-5)
    if method is Method.EDA:
        base = DecodingDraft(shared_parts(draft), draft.head(tiny_target.lm_head, vocab_W))
        decoding_draft = DecodingDraft(adapted_parts(loaded.draft, base.parts, loaded.trained), head)
        proposer = Proposer(base, tiny_target.embed, num_slots=2, max_tokens=16)
        pending = Pending(torch.tensor([[5, 6], [5, 6]]), torch.randn(1, 2, 64).expand(2, -1, -1), [0, 0], [2, 2])
        pending.decoding_drafts = [base, decoding_draft]
        chain = proposer.chain(pending, 3)
        assert chain.token_ids_BK.shape == (2, 3)
        assert set(chain.token_ids_BK[0].tolist()) <= set(vocab_W.tolist())
