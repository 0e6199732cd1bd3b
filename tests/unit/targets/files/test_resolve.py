"""From names to directories: what is refused, with which error, naming which field. No network is needed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from eda_service.config.job import TargetSpec
from eda_service.errors import TargetIncompatibleError, TargetNotFoundError, UnsafeCheckpointError
from eda_service.targets.files.resolve import resolve_target


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with HF_HUB_OFFLINE=1, which huggingface_hub reads once at import."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def model_dir(tmp_path: Path, target_dir: Callable[[str], Path]) -> Path:
    """A copy of the tiny Llama, to be spoilt."""
    return Path(shutil.copytree(target_dir("llama"), tmp_path / "model"))


@pytest.fixture
def adapter_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "adapter"
    directory.mkdir()
    (directory / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    tensors = {f"{name}A.weight": torch.zeros(8, 32), f"{name}B.weight": torch.zeros(32, 8)}
    save_file(tensors, directory / "adapter_model.safetensors")
    return directory


def resolve(model: object, **changes: object) -> object:
    return resolve_target(TargetSpec.model_validate({"model": str(model), **changes}))


def test_a_local_directory_is_found(model_dir: Path) -> None:
    found = resolve_target(TargetSpec(model=str(model_dir)))
    assert (found.model_dir, found.adapter_dir, found.revision) == (model_dir.resolve(), None, None)


def test_an_unknown_model_says_where_it_was_looked_for() -> None:
    with pytest.raises(TargetNotFoundError) as caught:
        resolve("nobody/no-such-model")
    message = str(caught.value)
    assert "'nobody/no-such-model'" in message
    assert "smollm2-135m-instruct" in message  # what there is
    assert "no directory here" in message
    assert "check the name or the network" in message  # what to do
    assert (caught.value.param, caught.value.code, caught.value.retryable) == (
        "target.model",
        "target_not_found",
        False,
    )


@pytest.mark.parametrize("name", ["not a name", "../x/y/z", "a/b/c", "x/../y", "a\0b", "/no/such/directory", "-rf"])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(TargetNotFoundError, match="no directory here") as caught:
        resolve(name)
    assert caught.value.param == "target.model"


@pytest.mark.parametrize("name", ["a" * 300, "~nosuchuser/model"], ids=["longer-than-a-file-name", "unknown-home"])
def test_a_name_the_file_system_refuses_is_a_clear_error_too(name: str) -> None:
    with pytest.raises(TargetNotFoundError) as caught:
        resolve(name)
    assert caught.value.param == "target.model"


def test_a_file_is_no_target(model_dir: Path) -> None:
    with pytest.raises(TargetNotFoundError, match="is a file; give the directory"):
        resolve(model_dir / "config.json")


def test_a_gguf_file_is_no_target(tmp_path: Path) -> None:
    """GGUF is a source to convert once, not something to load."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(TargetNotFoundError, match=r"model\.gguf is a file; give the directory"):
        resolve(path)


def test_a_directory_with_only_a_gguf_has_no_safetensors(model_dir: Path) -> None:
    (model_dir / "model.safetensors").rename(model_dir / "model.gguf")
    with pytest.raises(TargetNotFoundError, match=r"no \*\.safetensors"):
        resolve(model_dir)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "model.ckpt", "model.pkl"])
def test_pickled_weights_are_refused_unread(model_dir: Path, name: str) -> None:
    """The file would write a marker if it were unpickled."""
    marker = model_dir / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (marker,)

    (model_dir / "model.safetensors").unlink()
    torch.save(Bomb(), model_dir / name)
    with pytest.raises(UnsafeCheckpointError, match=name) as caught:
        resolve(model_dir)
    assert (caught.value.param, caught.value.code) == ("target.model", "target_incompatible")
    assert "safetensors" in str(caught.value)
    assert not marker.exists()


def test_safetensors_beside_pickled_weights_are_taken(model_dir: Path) -> None:
    (model_dir / "pytorch_model.bin").write_bytes(b"not read")
    assert resolve_target(TargetSpec(model=str(model_dir))).model_dir == model_dir.resolve()


def test_a_directory_without_config_is_no_model(model_dir: Path) -> None:
    (model_dir / "config.json").unlink()
    with pytest.raises(TargetNotFoundError, match=r"has no config\.json"):
        resolve(model_dir)


def test_an_encoder_is_refused(model_dir: Path) -> None:
    (model_dir / "config.json").write_text(json.dumps({"architectures": ["BertForMaskedLM"]}))
    with pytest.raises(TargetIncompatibleError, match="BertForMaskedLM; a decoder-only") as caught:
        resolve(model_dir)
    assert caught.value.param == "target.model"


def test_a_config_that_is_no_json_is_a_clear_error(model_dir: Path) -> None:
    (model_dir / "config.json").write_text("{")
    with pytest.raises(TargetNotFoundError, match=r"config\.json"):
        resolve(model_dir)


def test_an_adapter_is_found(model_dir: Path, adapter_dir: Path) -> None:
    found = resolve_target(TargetSpec(model=str(model_dir), adapter=str(adapter_dir)))
    assert found.adapter_dir == adapter_dir.resolve()


def test_a_missing_adapter_names_its_own_field(model_dir: Path) -> None:
    with pytest.raises(TargetNotFoundError) as caught:
        resolve(model_dir, adapter="nobody/no-such-adapter")
    assert caught.value.param == "target.adapter"


def test_a_pickled_adapter_is_refused(model_dir: Path, adapter_dir: Path) -> None:
    (adapter_dir / "adapter_model.safetensors").rename(adapter_dir / "adapter_model.bin")
    with pytest.raises(UnsafeCheckpointError, match=r"adapter_model\.bin") as caught:
        resolve(model_dir, adapter=str(adapter_dir))
    assert caught.value.param == "target.adapter"


def test_another_kind_of_adapter_is_refused(model_dir: Path, adapter_dir: Path) -> None:
    (adapter_dir / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(TargetIncompatibleError, match="of kind IA3, only LORA") as caught:
        resolve(model_dir, adapter=str(adapter_dir))
    assert caught.value.param == "target.adapter"


def test_a_model_directory_is_no_adapter(model_dir: Path) -> None:
    with pytest.raises(TargetNotFoundError, match=r"no adapter_config\.json"):
        resolve(model_dir, adapter=str(model_dir))
