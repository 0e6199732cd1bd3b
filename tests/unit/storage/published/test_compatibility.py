"""A base draft made for another kind of target is refused, every differing field named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from api.endpoint.engines.base_group import BaseGroup
from eda_service.config.job import TargetSpec
from eda_service.errors import TargetIncompatibleError
from eda_service.raycluster.serve_plan import ServedModel
from eda_service.storage.published.compatibility import check_draft_fits
from eda_service.storage.published.registry import read_draft_manifest
from eda_service.targets.loader import Target


def test_a_draft_that_fits(base_draft_dir: Path, make_target: Callable[[str], Target]) -> None:
    """Any family of the same width, vocabulary and tokenizer (transformers gives a Qwen2 a tokenizer of its own)."""
    for family in ("llama", "mistral"):
        check_draft_fits(read_draft_manifest(base_draft_dir), make_target(family).fingerprint)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 64},
        {"vocab_size": 200},
        {"tokenizer_sha256": "0" * 64},
        {"hidden_size": 64, "tokenizer_sha256": "0" * 64},
        {"hidden_size": 64, "vocab_size": 200, "tokenizer_sha256": "0" * 64},
    ],
)
def test_every_differing_field_is_named(base_draft_dir: Path, tiny_target: Target, changes: dict[str, object]) -> None:
    manifest = read_draft_manifest(base_draft_dir).model_copy(update=changes)
    with pytest.raises(TargetIncompatibleError, match="base draft tiny@1 does not fit") as caught:
        check_draft_fits(manifest, tiny_target.fingerprint)
    for field in ("hidden_size", "vocab_size", "tokenizer_sha256"):
        assert (field in str(caught.value)) is (field in changes)
    for field, value in changes.items():
        assert f"{field}: draft {str(value)[:12]}, target" in str(caught.value)
    assert (caught.value.param, caught.value.code) == ("base_draft", "target_incompatible")


def test_an_endpoint_does_not_start_with_a_draft_of_another_width(
    base_draft_dir: Path, new_target_dir: Callable[..., Path], tmp_path: Path
) -> None:
    """The manifest says so before any weight of the draft is read."""
    directory = new_target_dir(tmp_path / "target", "llama")
    manifest = base_draft_dir / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"hidden_size": 32', '"hidden_size": 48'))
    spec = TargetSpec(model=str(directory), dtype="float32")
    model = ServedModel(name="m", target=spec.model_dump(), base_draft="tiny@1", pack=None)
    with pytest.raises(TargetIncompatibleError, match="hidden_size: draft 48, target 32"):
        BaseGroup(spec).load(model, None)
