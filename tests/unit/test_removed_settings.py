"""A home and a row that name early training are read without it; what asks for it now is refused with the reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from api.jobs.schemas import AdaptationRequest
from api.jobs.submission.adapt_config import to_config
from eda_service.config.job import AdaptConfig
from eda_service.drafts.checkpoint import load_pack
from eda_service.errors import InputError
from eda_service.jobstore.jobs.job import Job
from eda_service.storage.published.registry import find_draft
from eda_service.storage.runs.run import RunDir
from jobs.common import build_config, config_of_paths, parser

BEFORE = Path(__file__).parents[1] / "fixtures" / "home_before_rooms"
EARLY = {"early_epochs": 8, "early_fraction": 0.5}
REFUSED = r"train\.early_epochs is 8.*was taken out; leave train\.early_epochs"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """The job of the version before, as it would be had it trained early: so do all of its files say."""
    home = tmp_path / "home"
    shutil.copytree(BEFORE, home)
    named = [path for path in home.rglob("*.json") if '"early_epochs": 0' in path.read_text(encoding="utf-8")]
    assert {path.name for path in named} == {"job.json", "manifest.json", "pack.json", "record.json"}
    for path in named:
        path.write_text(path.read_text(encoding="utf-8").replace('"early_epochs": 0', '"early_epochs": 8'), "utf-8")
    monkeypatch.setenv("EDA_HOME", str(home))
    return RunDir.of_job("adapt_golden_eda")


def test_a_home_that_names_it_is_read_without_it(run: RunDir) -> None:
    config = run.config()
    assert config.train.epochs == 8
    assert not EARLY.keys() & config.train.model_dump().keys()
    pack = run.home / "packs" / "golden-eda" / "1"
    manifest = json.loads((pack / "manifest.json").read_text(encoding="utf-8"))
    assert AdaptConfig.model_validate(manifest["config"]) == config
    assert load_pack(find_draft("tiny@1"), pack, dtype=torch.float32).trained


def test_a_row_that_names_it_is_read_without_it() -> None:
    given = {
        **{name: None for name, field in Job.model_fields.items() if field.is_required()},
        "seq": 1,
        "id": "adapt_01M8",
        "status": "queued",
        "origin": "api",
        "labels": {},
        "priority": 0,
        "attempt": 0,
        "max_attempts": 1,
        "created_at": 0,
        "not_before": 0,
        "events_read": 0,
        "config": {"target": {"model": "m"}, "train": {"epochs": 4, **EARLY}},
    }
    assert Job.model_validate(given).adapt_config().train.epochs == 4


def test_a_request_that_wants_it_is_refused_and_one_that_does_not_is_taken(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"model": "org/model", "config": {"train": EARLY}}
    with pytest.raises(InputError, match=REFUSED):
        to_config(AdaptationRequest.model_validate(fields))
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"target": {"model": "m"}, "train": EARLY}), encoding="utf-8")
    with pytest.raises(InputError, match=REFUSED):
        build_config(parser("").parse_args(["--config", str(file)]))
    with pytest.raises(ValueError, match=REFUSED):
        config_of_paths({"target.model": "m", "train.early_epochs": 8})
    unused = {"target.model": "m", "train.early_epochs": 0, "train.early_fraction": 0.25, "train.epochs": 3}
    assert config_of_paths(unused).train.epochs == 3
