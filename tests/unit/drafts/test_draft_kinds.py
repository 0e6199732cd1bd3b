"""The shape of a draft on disk: found by its kind, and for `eagle1` the very bytes of the version before."""

from __future__ import annotations

import json

import pytest

from eda_service.config.job import TrainConfig
from eda_service.decoding.fused.kinds import FUSED
from eda_service.drafts.compatibility import check_extension, check_reads
from eda_service.drafts.draft_config import CONFIGS, Eagle1Config, parse_draft_config
from eda_service.drafts.freezing import is_within
from eda_service.drafts.kinds import DRAFTS, make_draft
from eda_service.errors import InputError, TargetIncompatibleError

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


EAGLE3 = {"kind": "eagle3", "layers": [0, 1, 2], "draft_vocab_size": 90}
WIDER = {"hidden_size": 24, "target_hidden_size": 32, "own_embedding": True}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"fc_bias": True, "qkv_bias": True, "o_bias": True},
        EAGLE3,
        EAGLE3 | WIDER | {"fc_norm": "each", "qk_norm": True, "qkv_bias": True},
        EAGLE3 | {"fc_norm": "joint", "norm_before_fc": True, "fc_bias": True, "o_bias": True, "own_head": False},
        EAGLE3 | {"layers": [], "has_hidden_norm": False},
    ],
    ids=["eagle1", "eagle1 biases", "eagle3", "eagle3 wider", "eagle3 joint", "eagle3 last state"],
)
def test_the_places_of_a_kind_are_its_modules_and_its_sizes_are_theirs(changes: dict[str, object]) -> None:
    draft = make_draft(parse_draft_config(json.dumps(BEFORE | changes)))
    places, sizes = draft.places, draft.config.sizes
    parameters = {name: p.numel() for name, p in draft.named_parameters() if not is_within(name, [places.embedding])}
    counts = [sum(n for name, n in parameters.items() if is_within(name, at)) for at in (places.fuse, places.attention)]
    assert counts == [sizes.fuse, sizes.attention]
    assert sum(parameters.values()) == sizes.fuse + sizes.attention + sizes.others
    assert draft.ffn is draft.get_submodule(places.ffn)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"layers": [2, 1]}, r"layers \[2, 1\] are not ascending"),
        ({"layers": [1, 1]}, "not ascending"),
        ({"layers": [], "norm_before_fc": True}, "norms and bias of fc need layers"),
        ({"hidden_size": 24, "target_hidden_size": 32}, "the target's embedding of width 32"),
        (WIDER | {"own_head": False}, "the target's head of width 32"),
        (WIDER | {"layers": []}, "the target's state of width 32"),
        ({"draft_vocab_size": 200}, "it scores 200 tokens, the target has 112"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "needs original_max_position_embeddings"),
        ({"rope_scaling": {"rope_type": "mrope", "factor": 4.0}}, "rope_type"),
    ],
)
def test_a_shape_that_does_not_fit_together_is_refused(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_draft_config(json.dumps(BEFORE | EAGLE3 | changes))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, "set train.draft_vocab_size instead"),
        (EAGLE3 | {"own_head": False}, "set train.draft_vocab_size instead"),
        (EAGLE3 | WIDER, "of width 32, and the draft's have 24"),
        (EAGLE3 | {"draft_vocab_size": 110}, "lacks only 2 of the target's 112"),
    ],
)
def test_rows_that_a_head_cannot_take_are_refused(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(InputError, match=f"extend_draft_vocab is 3, and .*{problem}") as refused:
        check_extension(parse_draft_config(json.dumps(BEFORE | changes)), TrainConfig(extend_draft_vocab=3))
    assert refused.value.param == "train.extend_draft_vocab"


def test_layers_that_a_target_does_not_have_are_refused() -> None:
    draft = parse_draft_config(json.dumps(BEFORE | EAGLE3))
    check_reads(draft, 2)
    check_extension(draft, TrainConfig(extend_draft_vocab=22))
    with pytest.raises(TargetIncompatibleError, match="state after layer 2, and the target has 1"):
        check_reads(draft, 1)
