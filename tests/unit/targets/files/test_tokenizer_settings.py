"""A checkpoint whose tokenizer settings name a file elsewhere: its lines would be the tokens that callers are shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import write_adapter

from eda_service.config.job import TargetSpec
from eda_service.errors import UnsafeCheckpointError
from eda_service.targets.chat.chat import load_tokenizer
from eda_service.targets.files.resolve import resolve_target

SETTINGS, SPECIAL = "tokenizer_config.json", "special_tokens_map.json"
BERT = {"tokenizer_class": "BertTokenizer"}
HOSTILE: list[dict[str, dict[str, Any]]] = [
    {SETTINGS: {**BERT, "vocab": "{secret}"}},
    {SETTINGS: {**BERT, "init_inputs": ["{secret}"]}},
    {SETTINGS: BERT, SPECIAL: {"vocab": "{secret}"}},
    {SETTINGS: BERT, SPECIAL: {"vocab_file": "{secret}"}},
    {SETTINGS: {"tokenizer_class": "GPT2Tokenizer", "vocab": "{words}", "merges": "{secret}"}},
    {SETTINGS: {"tokenizer_class": "RoCBertTokenizer", "word_shape_file": "{words}"}},
    {SETTINGS: {"vocab_file": "../home/secret.model"}},
    {SETTINGS: {"gguf_file": "model.gguf"}},
    {SETTINGS: {"fast_tokenizer_files": ["tokenizer.json", "../other/tokenizer.4.0.json"]}},
]
LEFT_OVER = {
    "special_tokens_map_file": "/srv/cache/special_tokens_map.json",
    "tokenizer_file": "/somewhere/tokenizer.json",
    "vocab_file": None,
    "added_tokens_file": "added_tokens.json",
}


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A text file of the service's own."""
    (tmp_path / "words.json").write_text('{"a": 0, "b": 1, "ab": 2}')
    path = tmp_path / "secret.txt"
    path.write_text("0123456789abcdef\n[UNK]\n[PAD]\n[CLS]\n[SEP]\n[MASK]\n")
    return path


@pytest.fixture
def model(tmp_path: Path, target_dir: Callable[[str], Path]) -> Path:
    """A copy of the tiny Llama."""
    return Path(shutil.copytree(target_dir("llama"), tmp_path / "model"))


def write(directory: Path, files: dict[str, dict[str, Any]], secret: Path) -> None:
    for name, settings in files.items():
        text = json.dumps(settings)
        text = text.replace("{secret}", str(secret)).replace("{words}", str(secret.with_name("words.json")))
        (directory / name).write_text(text)


@pytest.mark.parametrize("files", HOSTILE, ids=json.dumps)
def test_a_file_that_a_tokenizers_settings_name_is_not_read(
    files: dict[str, dict[str, Any]], model: Path, secret: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(model / "config.json", alone)
    for directory in (model, alone):
        write(directory, files, secret)
    with pytest.raises(UnsafeCheckpointError, match="names a file or hands over") as caught:
        load_tokenizer(alone)  # without a tokenizer.json the settings are all there is
    assert "0123456789abcdef" not in caught.value.message
    with pytest.raises(UnsafeCheckpointError, match="names a file or hands over"):
        resolve_target(TargetSpec(model=str(model)))  # which the target of a vLLM goes through as well


def test_an_adapters_tokenizer_is_held_to_the_same(target_dir: Callable[[str], Path], tmp_path: Path) -> None:
    adapter = write_adapter(target_dir("llama"), tmp_path / "adapter", seed=0)
    (adapter / SPECIAL).write_text(json.dumps({"vocab_file": "/etc/hostname"}))
    with pytest.raises(UnsafeCheckpointError, match="vocab_file") as caught:
        resolve_target(TargetSpec(model=str(target_dir("llama")), adapter=str(adapter)))
    assert caught.value.param == "target.adapter"


def test_what_older_versions_have_written_is_no_harm(model: Path) -> None:
    path = model / SETTINGS
    path.write_text(json.dumps({**json.loads(path.read_text()), **LEFT_OVER}))
    (model / SPECIAL).write_text(json.dumps({"eos_token": "</s>", "additional_special_tokens": []}))
    resolve_target(TargetSpec(model=str(model)))
    assert load_tokenizer(model).is_fast
