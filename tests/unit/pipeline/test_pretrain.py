"""What pretraining refuses before hours of generation."""

from __future__ import annotations

from pathlib import Path

import pytest

from eda_service.config.job import AdaptConfig
from eda_service.drafts.draft_config import Eagle1Config
from eda_service.errors import InputError, InsufficientStorageError
from eda_service.pipeline import pretrain
from eda_service.storage.run import RunDir

WIDE = Eagle1Config(
    hidden_size=8192,
    num_heads=64,
    num_kv_heads=8,
    head_dim=128,
    expert_width=28_672,
    vocab_size=128_256,
    rope_theta=1e4,
    rms_norm_eps=1e-6,
)


def job(**changes: object) -> AdaptConfig:
    settings = {
        "target": {"model": "smollm2-135m-instruct"},
        "selection": {"method": "all"},
        "train": {"method": "retrain"},
    }
    return AdaptConfig.model_validate({**settings, **changes})


@pytest.mark.parametrize("text", ["a b@1", "../drafts@1", "smollm2-135m@²", "smollm2-135m@latest", "smollm2-135m"])
def test_a_draft_that_could_not_be_registered(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="no name@version") as refused:
        pretrain.pretrain(RunDir(tmp_path / "runs" / "one"), job(), text)
    assert refused.value.param == "pretrain"
    assert not (tmp_path / "runs").exists()


def test_a_disk_without_room_for_all_samples_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "draft_config_of", lambda config: WIDE)
    config = job(dataset={"num_prompts": 1_000_000}, selfgen={"max_prompt_tokens": 2000, "max_new_tokens": 2000})
    # a million samples of 4,000 tokens, 8,192 numbers of two bytes each, twice; and embedding and head
    with pytest.raises(InsufficientStorageError, match=r"needs 131076\.20 GB"):
        pretrain.pretrain(RunDir(tmp_path / "runs" / "one"), config, "wide@1")
