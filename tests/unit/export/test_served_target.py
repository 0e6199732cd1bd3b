"""The target beside an export: merged where it has an adapter, and named so that the command can be pasted."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from adapted_packs import publish_adapted
from safetensors.torch import save_file
from test_eda_config import config
from tiny_models import write_adapter
from transformers import AutoModelForCausalLM

from eda_service.config.job import TargetSpec, TrainConfig
from eda_service.export.command import ServedTarget, serve_command
from eda_service.export.export import Exported, ExportRequest, export_draft
from eda_service.export.files.directory import published
from eda_service.export.files.eda_config import Destination, ExportForm
from eda_service.targets.loader import Target, load_target


def export(home: Path, base_dir: Path, spec: TargetSpec, out: Path, merged: Path | None) -> Exported:
    publish_adapted(home, base_dir, load_target(spec), TrainConfig())
    request = ExportRequest("adapted", Destination.VLLM, ExportForm.PLUGIN, out, target=spec, merged_target=merged)
    return export_draft(request, home=home)


def modes(root: Path) -> tuple[set[int], set[int]]:
    """Of all directories, and of all files."""
    found = [root, *root.rglob("*")]
    return tuple({path.stat().st_mode & 0o777 for path in found if path.is_dir() is kind} for kind in (True, False))  # type: ignore[return-value]


@pytest.fixture
def umask() -> Iterator[Callable[[int], object]]:
    """Sets the umask of this test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def test_what_the_umask_keeps_from_others_stays_with_this_user(tmp_path: Path, umask: Callable[[int], object]) -> None:
    umask(0o027)
    with published(tmp_path / "out", "out") as staging:
        (staging / "inner").mkdir()
        for place in (staging, staging / "inner"):
            save_file({"x": torch.zeros(1)}, place / "model.safetensors")  # for its user alone
            (place / "model.safetensors").chmod(0o600)
    assert modes(tmp_path / "out") == ({0o750}, {0o640})


@pytest.mark.usefixtures("umask")
def test_an_adapter_is_merged(home: Path, base_draft_dir: Path, tiny_target: Target, tmp_path: Path) -> None:
    """The directory is a whole model that gives the adapted target's logits, with its tokenizer."""
    model_dir = Path(tiny_target.spec.model)
    adapter = write_adapter(model_dir, tmp_path / "adapter", seed=1)
    spec = TargetSpec(model=str(model_dir), adapter=str(adapter), dtype="float32")
    made = export(home, base_draft_dir, spec, tmp_path / "out", tmp_path / "merged")
    assert not made.target_to_merge
    assert shlex.split(made.serve_command)[:3] == ["vllm", "serve", str(tmp_path / "merged")]
    target, ids_1L = load_target(spec), torch.tensor([[5, 17, 40, 88, 9]])
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)(ids_1L).logits
        wanted = target.head(target.forward(ids_1L, target.new_cache(1, 5), [0]).head_in)
        plain = tiny_target.head(tiny_target.forward(ids_1L, tiny_target.new_cache(1, 5), [0]).head_in)
    torch.testing.assert_close(merged, wanted, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(merged, plain, rtol=1e-1, atol=1e-1)
    for written in (tmp_path / "merged", tmp_path / "out"):
        assert modes(written) == ({0o755}, {0o644})
    again = load_target(TargetSpec(model=str(tmp_path / "merged")))
    assert again.fingerprint.tokenizer_sha256 == target.fingerprint.tokenizer_sha256


def test_an_adapter_that_is_not_merged_is_a_blank_in_the_command(
    home: Path, base_draft_dir: Path, tiny_target: Target, tmp_path: Path
) -> None:
    model_dir = Path(tiny_target.spec.model)
    adapter = write_adapter(model_dir, tmp_path / "adapter", seed=1)
    spec = TargetSpec(model=str(model_dir), adapter=str(adapter), dtype="float32")
    made = export(home, base_draft_dir, spec, tmp_path / "out", None)
    assert made.target_to_merge
    assert made.serve_command.startswith("vllm serve MERGED_TARGET --speculative-config ")


def test_a_hub_model_keeps_its_commit_and_odd_paths_are_quoted() -> None:
    target = ServedTarget("org/model", "abc123")
    words = shlex.split(serve_command(Path("/a b/draft"), target, config(), 4))
    assert words[:5] == ["vllm", "serve", "org/model", "--revision", "abc123"]
    assert words[6] == '{"method": "eagle", "model": "/a b/draft", "num_speculative_tokens": 4}'
    sglang = config().model_copy(update={"destination": Destination.SGLANG, "draft_vocab_size": 9})
    words = shlex.split(serve_command(Path("/a b/draft"), target, sglang, 4))
    assert words[words.index("--speculative-token-map") + 1] == "/a b/draft/token_map.pt"
    assert words[words.index("--speculative-num-draft-tokens") + 1] == "5"
