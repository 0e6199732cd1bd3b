"""The part of a draft that makes its first state, loaded without the rest of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import random_eagle3

from eda_service.decoding.build import load_drafts, load_first_step
from eda_service.drafts.checkpoint import save_base_draft
from eda_service.errors import ArtifactCorruptError
from eda_service.targets.loader import Target

FORMS: dict[str, dict[str, Any]] = {
    "fc": {},
    "bias": {"fc_bias": True},
    "norm before": {"norm_before_fc": True},
    "norms each": {"fc_norm": "each"},
    "norm joint": {"fc_norm": "joint"},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_it_says_what_the_whole_draft_says(tmp_path: Path, tiny_target: Target, form: dict[str, Any]) -> None:
    save_base_draft(tmp_path, random_eagle3(tiny_target, **form), None)
    whole, part = load_drafts(tmp_path, None, target=tiny_target).draft, load_first_step(tmp_path, target=tiny_target)
    states_BLC = torch.randn(2, 5, whole.config.feature_width, dtype=tiny_target.dtype)
    with torch.no_grad():
        assert torch.equal(part.start(states_BLC), whole.start(states_BLC))
    held = {name for name, p in part.named_parameters() if not p.is_meta}
    assert held == {name for name, _ in whole.named_parameters() if name.split(".")[0] in whole.places.fuse}
    assert sum(p.numel() for p in part.parameters() if not p.is_meta) == whole.config.sizes.fuse


def test_a_file_that_is_not_this_draft_is_refused(tmp_path: Path, tiny_target: Target) -> None:
    save_base_draft(tmp_path, random_eagle3(tiny_target), None)
    path = tmp_path / "draft.safetensors"
    tensors = load_file(path)
    save_file({name: value for name, value in tensors.items() if name != "norm.weight"}, path)
    with pytest.raises(ArtifactCorruptError, match=r"missing tensors \['norm.weight'\]"):
        load_first_step(tmp_path, target=tiny_target)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ArtifactCorruptError, match="cannot be read"):
        load_first_step(tmp_path, target=tiny_target)
