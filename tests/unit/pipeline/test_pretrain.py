"""What pretraining refuses before hours of generation, and what it registers after them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from job_files import write_records

from eda_service.config.job import AdaptConfig
from eda_service.drafts.checkpoint import load_base_draft, save_pack
from eda_service.drafts.draft_config import Eagle1Config
from eda_service.drafts.freezing import prepare
from eda_service.drafts.kinds import make_draft
from eda_service.errors import InputError, InsufficientStorageError
from eda_service.pipeline import pretrain
from eda_service.records import DraftCheckpoint, SelfGenManifest, Stage
from eda_service.storage.files import file_entry
from eda_service.storage.runs.run import RunDir
from eda_service.targets.loader import Target

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
    # 131.08 TB: a million samples of 4,000 tokens, 8,192 numbers of two bytes each, twice; and the ends
    with pytest.raises(InsufficientStorageError, match=r"needs 131\.1 TB"):
        pretrain.pretrain(RunDir(tmp_path / "runs" / "one"), config, "wide@1")


def test_a_trained_draft_is_registered_from_a_machine_that_did_not_train_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_target: Target
) -> None:
    """The draft that training started from lies on the machine that trained; only the pack is fetched."""
    monkeypatch.setenv("EDA_HOME", str(tmp_path))
    config = job(target=tiny_target.spec.model_dump())
    shape = pretrain.draft_config_of(config)
    run = RunDir.of_job("one")
    run.create(config, origin="ray")
    write_records(run, config)
    pack = run.stage_dir(Stage.TRAIN) / "pack"
    pack.mkdir()
    torch.manual_seed(5)
    trained = prepare(make_draft(shape), config.train, seed=5)
    save_pack(pack, trained, config.train, None)
    files = tuple(file_entry(pack.parent, path) for path in sorted(pack.iterdir()))
    record = run.read_record(DraftCheckpoint, Stage.TRAIN, verify=False)
    generated = run.read_record(SelfGenManifest, Stage.GENERATE, verify=False)
    assert record is not None
    assert generated is not None
    run.write_record(record.model_copy(update={"files": files}))
    run.write_record(generated.model_copy(update={"files": ()}))
    directory = pretrain._register(run, config, shape, ("fresh", 1))
    made = dict(load_base_draft(directory, dtype=torch.bfloat16).draft.named_parameters())
    for name, parameter in trained.named_parameters():
        assert torch.equal(made[name], parameter.to(torch.bfloat16)), name
