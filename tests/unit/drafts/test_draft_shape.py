"""The shape of a draft for every family that is served, against its config as the family names things, by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import SERVED, family_config, write_family
from odd_checkpoints import settings
from tiny_models import random_samples

from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.config.loss import LossConfig
from eda_service.drafts.draft_shape import draft_shape
from eda_service.drafts.kinds import make_draft
from eda_service.errors import TargetIncompatibleError
from eda_service.pipeline import pretrain as pretraining
from eda_service.storage.runs.run import RunDir
from eda_service.targets.loader import load_target
from eda_service.training.batches import collate
from eda_service.training.loss import DraftLoss

# Where a family's own default differs from rope_theta 10000 and rms_norm_eps 1e-6, as its published code has it.
ROTARY_BASE = {
    "apertus": 12e6,
    **dict.fromkeys(("bitnet", "cohere", "ernie4_5", "olmo3"), 5e5),
    "gemma3_text": 1e6,
    "gpt_oss": 15e4,
    "helium": 1e5,
    "mixtral": 1e6,
    "phimoe": 1e6,
    "smollm3": 2e6,
}
EPSILON = {
    **dict.fromkeys(("apertus", "arcee", "bitnet", "cohere", "cohere2", "ernie4_5", "exaone4", "gpt_oss"), 1e-5),
    **dict.fromkeys(("hunyuan_v1_dense", "mixtral", "nemotron", "olmo", "olmo2", "olmo3", "olmoe", "phi3"), 1e-5),
    **dict.fromkeys(("phimoe", "stablelm", "starcoder2"), 1e-5),
    **dict.fromkeys(("glm", "glm4"), 1.5625e-07),
    "helium": 1e-8,
}


@pytest.mark.parametrize("family", SERVED)
def test_every_family_has_a_draft(family: str) -> None:
    found = draft_shape(family_config(family))
    width = SERVED[family].get("head_dim", 128 if family == "ernie4_5" else 8)
    assert (found.hidden_size, found.num_heads, found.num_kv_heads, found.vocab_size) == (32, 4, 2, 112)
    assert found.head_dim == width
    assert found.expert_width == 48
    assert found.rope_theta == pytest.approx(ROTARY_BASE.get(family, 1e4))
    assert found.rms_norm_eps == pytest.approx(EPSILON.get(family, 1e-6))


LLAMA: dict[str, Any] = {
    "model_type": "odd",
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 112,
    "rope_parameters": {"rope_theta": 5e5},
    "rms_norm_eps": 1e-5,
}


def odd(**changes: Any) -> Any:
    return SimpleNamespace(**{name: value for name, value in {**LLAMA, **changes}.items() if value is not ...})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"num_kv_heads": 2, "head_dim": 8, "expert_width": 48, "rope_theta": 5e5, "rms_norm_eps": 1e-5}),
        ({"num_key_value_heads": ...}, {"num_kv_heads": 4}),
        ({"head_dim": 16}, {"head_dim": 16}),
        ({"intermediate_size": [24, 96]}, {"expert_width": 96}),
        ({"intermediate_size": ..., "moe_intermediate_size": 24, "num_experts_per_tok": 2}, {"expert_width": 48}),
        ({"rope_parameters": ..., "rope_theta": 7e3}, {"rope_theta": 7e3}),
        ({"rope_parameters": None}, {"rope_theta": 1e4}),
        (
            {"rope_parameters": {"sliding_attention": {"rope_theta": 1e4}, "full_attention": {"rope_theta": 1e6}}},
            {"rope_theta": 1e6},
        ),
        ({"rope_parameters": {"rope_theta": 2e4, "mrope_section": [2, 1, 1]}}, {"rope_theta": 2e4}),
        ({"rms_norm_eps": ..., "norm_eps": 1e-3}, {"rms_norm_eps": 1e-3}),
        ({"rms_norm_eps": ..., "layernorm_epsilon": 1e-4}, {"rms_norm_eps": 1e-4}),
        ({"rms_norm_eps": ...}, {"rms_norm_eps": 1e-5}),
    ],
)
def test_sizes_by_other_names(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    found = draft_shape(odd(**changes)).model_dump()
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"intermediate_size": ...}, "neither intermediate_size nor moe_intermediate_size"),
        ({"head_dim": 7}, "head_dim is 7"),
        ({"hidden_size": ...}, "hidden_size"),
        ({"rms_norm_eps": 2.0}, "rms_norm_eps is 2.0"),
        ({"rope_parameters": {"rope_theta": "much"}}, "much"),
    ],
)
def test_what_has_no_draft_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(TargetIncompatibleError) as caught:
        draft_shape(odd(**changes))
    assert words in caught.value.message
    assert "type odd" in caught.value.message
    assert caught.value.param == "target.model"


@pytest.mark.parametrize("family", ["gemma3_text", "nemotron"])
def test_a_draft_of_an_odd_family_learns(family: str, tmp_path: Path) -> None:
    """One step on its own samples lowers their loss: every weight of the draft has a finite gradient."""
    target = load_target(TargetSpec(model=str(write_family(tmp_path, family)), dtype="float32"))
    torch.manual_seed(0)
    draft = make_draft(draft_shape(target.config))
    loss = DraftLoss(draft, LossConfig(cross_entropy_weight=1.0))
    batch = collate(random_samples([9, 12]), max_tokens=16, dtype=torch.float32)
    before = loss(batch, target.embed, target.lm_head).total
    before.backward()
    with torch.no_grad():
        for parameter in draft.parameters():
            assert parameter.grad is not None
            assert bool(parameter.grad.isfinite().all())
            parameter.sub_(0.01 * parameter.grad / (parameter.grad.norm() + 1e-6))
    assert loss(batch, target.embed, target.lm_head).total < before


def test_a_target_without_a_draft_is_refused_before_anything_is_generated(
    tmp_path: Path, new_target_dir: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error came after hours of generation."""
    monkeypatch.setenv("EDA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(pretraining, "run_stage", lambda *_: pytest.fail("something was generated"))
    model = new_target_dir(tmp_path / "model", "llama")
    config = AdaptConfig.model_validate(
        {
            "target": {"model": str(model)},
            "train": {"method": "retrain"},
            "selection": {"method": "all"},
        }
    )
    settings(rope_parameters={"rope_type": "spiral", "rope_theta": 1e4})(model)
    with pytest.raises(TargetIncompatibleError, match="rope_type is 'spiral'"):
        pretraining.pretrain(RunDir(tmp_path / "run"), config, "fresh@1")
