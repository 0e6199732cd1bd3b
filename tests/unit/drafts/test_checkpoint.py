"""Drafts and packs as safetensors: round trips, what a pack holds, and files that are not what they should be.

Shapes: B samples, L positions, D hidden, W draft vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from eda_service.config.job import Method, Mix, TrainConfig
from eda_service.drafts.checkpoint import for_inference, load_base_draft, load_pack, save_base_draft, save_pack
from eda_service.drafts.draft import Draft
from eda_service.drafts.freezing import prepare, trained_state
from eda_service.drafts.unroll import unroll
from eda_service.errors import ArtifactCorruptError
from eda_service.targets.loader import Target

METHODS = {
    "eda": TrainConfig(method=Method.EDA),
    "eda_small": TrainConfig(method=Method.EDA, private_width_fraction=0.25),
    "eda_sum_fc": TrainConfig(method=Method.EDA, mix=Mix.SUM, train_fc=True),
    "eda_attention": TrainConfig(method=Method.EDA, train_attention=True),
    "full_ft": TrainConfig(method=Method.FULL_FT),
    "retrain": TrainConfig(method=Method.RETRAIN),
    "lora": TrainConfig(method=Method.LORA, lora_rank=4),
}

_OF_ALL = {".private.", "draft_vocab"}
EDA_PARTS = {
    "eda": _OF_ALL | {".mlp.gate."},
    "eda_small": _OF_ALL | {".mlp.gate."},
    "eda_sum_fc": _OF_ALL | {"fc.weight"},
    "eda_attention": _OF_ALL | {".mlp.gate.", ".self_attn."},
}


def round_to_bfloat16(draft: Draft) -> Draft:
    """Weights that storage keeps exactly, so that round trips can be compared bit by bit."""
    with torch.no_grad():
        for parameter in draft.parameters():
            parameter.copy_(parameter.bfloat16().float())
    return draft


def outputs(draft: Draft, target: Target) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    token_ids_BL = torch.randint(3, 112, (2, 8), generator=rng)
    features_BLD = torch.randn(2, 8, 32, generator=rng)
    with torch.no_grad():
        return torch.cat(list(unroll(draft, target.embed, token_ids_BL, features_BLD, 2)), dim=1)


@pytest.fixture
def base_dir(tmp_path: Path, tiny_draft: Draft) -> Path:
    directory = tmp_path / "base"
    directory.mkdir()
    save_base_draft(directory, round_to_bfloat16(tiny_draft), None)
    return directory


@pytest.mark.parametrize("vocab", [None, [3, 40, 111]])
def test_base_draft_round_trip(tmp_path: Path, tiny_draft: Draft, vocab: list[int] | None) -> None:
    vocab_W = None if vocab is None else torch.tensor(vocab)
    save_base_draft(tmp_path, round_to_bfloat16(tiny_draft), vocab_W)
    loaded = load_base_draft(tmp_path, dtype=torch.float32)
    assert loaded.draft.config == tiny_draft.config
    assert (None if loaded.vocab_W is None else loaded.vocab_W.tolist()) == vocab
    for name, parameter in tiny_draft.named_parameters():
        assert torch.equal(loaded.draft.get_parameter(name), parameter)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "draft.safetensors"]


def test_weights_are_stored_in_bfloat16_and_loaded_as_asked(tmp_path: Path, tiny_draft: Draft) -> None:
    save_base_draft(tmp_path, tiny_draft, None)
    with safe_open(tmp_path / "draft.safetensors", framework="pt") as stream:
        assert {stream.get_slice(name).get_dtype() for name in stream.keys()} == {"BF16"}  # noqa: SIM118
    for dtype in (torch.float32, torch.bfloat16):
        assert load_base_draft(tmp_path, dtype=dtype).draft.fc.weight.dtype == dtype


@pytest.mark.parametrize("name", list(METHODS))
def test_pack_holds_the_trained_tensors_and_nothing_else(tmp_path: Path, tiny_draft: Draft, name: str) -> None:
    adapted = prepare(tiny_draft, METHODS[name], seed=0)
    save_pack(tmp_path, adapted, METHODS[name], torch.tensor([3, 5]))
    stored = load_file(tmp_path / "pack.safetensors")
    assert stored.keys() == trained_state(adapted).keys() | {"draft_vocab"}
    if METHODS[name].method is Method.EDA:
        parts = (".private.", ".mlp.gate.", "draft_vocab", "fc.weight", ".self_attn.")
        assert {part for part in parts if any(part in key for key in stored)} == EDA_PARTS[name]
        assert all(any(part in key for part in parts) for key in stored)
        frozen = sum(p.numel() for p in adapted.parameters() if not p.requires_grad) * 2
        assert (tmp_path / "pack.safetensors").stat().st_size < sum(t.nbytes for t in stored.values()) + frozen / 4


@pytest.mark.parametrize("name", list(METHODS))
def test_pack_round_trip_gives_the_trained_draft(
    tmp_path: Path, base_dir: Path, tiny_target: Target, name: str
) -> None:
    config = METHODS[name]
    base = load_base_draft(base_dir, dtype=torch.float32).draft
    adapted = prepare(copy.deepcopy(base), config, seed=5)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    round_to_bfloat16(adapted)
    save_pack(tmp_path, adapted, config, None)
    loaded = load_pack(base_dir, tmp_path, dtype=torch.float32)
    wanted = outputs(adapted, tiny_target)
    torch.testing.assert_close(outputs(loaded.draft, tiny_target), wanted, rtol=1e-5, atol=1e-5)
    assert (outputs(base, tiny_target) - wanted).abs().max() > 1e-2
    assert not any(p.requires_grad for p in loaded.draft.parameters())
    assert loaded.vocab_W is None


def test_lora_is_merged_away(tmp_path: Path, base_dir: Path) -> None:
    config = METHODS["lora"]
    save_pack(tmp_path, prepare(load_base_draft(base_dir, dtype=torch.float32).draft, config, seed=0), config, None)
    merged = load_pack(base_dir, tmp_path, dtype=torch.float32).draft
    base = load_base_draft(base_dir, dtype=torch.float32).draft
    assert {name for name, _ in merged.named_parameters()} == {name for name, _ in base.named_parameters()}


def test_a_pack_s_vocabulary_goes_before_the_base_draft_s(tmp_path: Path, tiny_draft: Draft) -> None:
    base_dir, with_dir, without_dir = (tmp_path / name for name in ("base", "with", "without"))
    for directory in (base_dir, with_dir, without_dir):
        directory.mkdir()
    save_base_draft(base_dir, tiny_draft, torch.tensor([1, 2]))
    adapted = prepare(tiny_draft, METHODS["eda"], seed=0)
    save_pack(with_dir, adapted, METHODS["eda"], torch.tensor([3, 4, 5]))
    save_pack(without_dir, adapted, METHODS["eda"], None)
    found = [load_pack(base_dir, directory, dtype=torch.float32).vocab_W for directory in (with_dir, without_dir)]
    assert [None if vocab_W is None else vocab_W.tolist() for vocab_W in found] == [[3, 4, 5], [1, 2]]


def test_inference_form_is_frozen(base_dir: Path) -> None:
    frozen = for_inference(load_base_draft(base_dir, dtype=torch.float32))
    assert not any(p.requires_grad for p in frozen.draft.parameters())


@pytest.mark.parametrize("cut", [0, 4, 200, -10])
def test_a_truncated_file_is_corrupt(base_dir: Path, cut: int) -> None:
    path = base_dir / "draft.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ArtifactCorruptError, match=r"draft\.safetensors cannot be read") as caught:
        load_base_draft(base_dir, dtype=torch.float32)
    assert caught.value.code == "artifact_corrupt"


def test_a_missing_file_is_corrupt(base_dir: Path) -> None:
    (base_dir / "draft.safetensors").unlink()
    with pytest.raises(ArtifactCorruptError, match="cannot be read"):
        load_base_draft(base_dir, dtype=torch.float32)


def test_missing_and_unknown_tensors_are_named(base_dir: Path) -> None:
    path = base_dir / "draft.safetensors"
    tensors = load_file(path)
    tensors["fd.weight"] = tensors.pop("fc.weight")
    save_file(tensors, path)
    with pytest.raises(ArtifactCorruptError, match=r"missing tensors \['fc.weight'\], unknown tensors \['fd.weight'\]"):
        load_base_draft(base_dir, dtype=torch.float32)


def test_another_shape_is_named(base_dir: Path) -> None:
    path = base_dir / "draft.safetensors"
    tensors = load_file(path)
    tensors["fc.weight"] = tensors["fc.weight"][:, :10].contiguous()
    save_file(tensors, path)
    with pytest.raises(ArtifactCorruptError, match=r"fc\.weight has shape \(32, 10\), the draft needs \(32, 64\)"):
        load_base_draft(base_dir, dtype=torch.float32)


def test_a_pack_of_another_form_is_corrupt(
    tmp_path: Path, base_dir: Path, tiny_target: Target, new_draft: Callable[..., Draft]
) -> None:
    """Tensors of a full-width expert under a description that says half."""
    save_pack(tmp_path, prepare(new_draft(tiny_target), METHODS["eda"], seed=0), METHODS["eda_small"], None)
    with pytest.raises(ArtifactCorruptError, match="has shape"):
        load_pack(base_dir, tmp_path, dtype=torch.float32)


def test_a_pack_for_another_base_draft_is_refused(
    tmp_path: Path, base_dir: Path, tiny_target: Target, new_draft: Callable[..., Draft]
) -> None:
    """The same shapes, other weights: nothing else would tell, and it would only be slow."""
    save_pack(tmp_path, prepare(new_draft(tiny_target, seed=9), METHODS["eda"], seed=0), METHODS["eda"], None)
    with pytest.raises(ArtifactCorruptError, match="another base draft"):
        load_pack(base_dir, tmp_path, dtype=torch.float32)
    save_pack(tmp_path, prepare(new_draft(tiny_target, seed=9), METHODS["full_ft"], seed=0), METHODS["full_ft"], None)
    load_pack(base_dir, tmp_path, dtype=torch.bfloat16)  # nothing of the base is left in it


@pytest.mark.parametrize("text", ["", "{", '{"hidden_size": 32}'])
def test_an_unreadable_config_is_corrupt(base_dir: Path, text: str) -> None:
    (base_dir / "config.json").write_text(text)
    with pytest.raises(ArtifactCorruptError):
        load_base_draft(base_dir, dtype=torch.float32)
