"""The shape of a draft on disk: found by its kind, and for `eagle1` the very bytes of the version before."""

from __future__ import annotations

import json

import pytest

from eda_service.decoding.fused.kinds import FUSED
from eda_service.drafts.draft_config import CONFIGS, Eagle1Config, parse_draft_config
from eda_service.drafts.kinds import DRAFTS, make_draft

BEFORE = {
    "hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "expert_width": 48, "vocab_size": 112,
    "rope_theta": 10000.0, "rms_norm_eps": 1e-05,
}  # fmt: skip


@pytest.mark.parametrize("named", [{}, {"kind": "eagle1"}], ids=["of the version before", "with its kind"])
def test_a_shape_without_a_kind_is_eagle1_and_is_written_as_before(named: dict[str, str]) -> None:
    config = parse_draft_config(json.dumps(BEFORE | named))
    assert isinstance(config, Eagle1Config)
    assert config.captures == ()
    assert config.model_dump_json(indent=2) == json.dumps(BEFORE, indent=2).replace("1e-05", "0.00001")


@pytest.mark.parametrize("kind", ["medusa", 1])
def test_an_unknown_kind_is_refused_by_name(kind: object) -> None:
    with pytest.raises(ValueError, match=f"kind '{kind}' is none of eagle1"):
        parse_draft_config(json.dumps(BEFORE | {"kind": kind}))


def test_every_kind_is_in_each_table() -> None:
    assert CONFIGS.keys() == DRAFTS.keys() == FUSED.keys()


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_places_of_a_kind_are_its_modules_and_its_sizes_are_theirs(kind: str) -> None:
    draft = make_draft(parse_draft_config(json.dumps(BEFORE | {"kind": kind})))
    places, sizes = draft.places, draft.config.sizes
    counts = [
        sum(p.numel() for p in draft.get_submodule(name).parameters()) for name in (places.fuse, places.attention)
    ]
    assert counts == [sizes.fuse, sizes.attention]
    assert sum(p.numel() for p in draft.parameters()) == sizes.fuse + sizes.attention + sizes.others
    assert draft.ffn is draft.get_submodule(places.ffn)
