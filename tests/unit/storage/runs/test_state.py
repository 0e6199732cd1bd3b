"""The small files of a run directory: the bytes that the version before wrote are read and written again unchanged."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from pydantic import BaseModel

from eda_service.config.job import AdaptConfig
from eda_service.records import DraftCheckpoint, EvalReport, PackMetrics, SelectionManifest
from eda_service.storage.runs.job_row_fields import JobRowFields
from eda_service.storage.runs.state import (
    AttemptResult,
    Best,
    Diverged,
    Failed,
    JobFile,
    Prepared,
    ShardResult,
    StageProgress,
    Trained,
    TrainOutcome,
    encoded,
)

BEFORE = Path(__file__).parents[3] / "fixtures" / "home_before_rooms" / "runs" / "adapt_golden_eda"
CONFIG = {"target": {"model": "org/model"}}
FAILED = """{
  "attempt": 2,
  "error": {
    "code": "insufficient_storage",
    "message": "full",
    "param": null,
    "retryable": true
  },
  "finished_at": 7,
  "status": "failed"
}
"""


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("progress.json", StageProgress),
        ("result.json", AttemptResult),
        ("train/outcome.json", TrainOutcome),
        ("generate/shard-00000.json", ShardResult),
    ],
)
def test_files_of_before_are_written_again_to_the_byte(name: str, kind: type[BaseModel]) -> None:
    data = (BEFORE / name).read_bytes()
    assert encoded(kind.model_validate_json(data)) == data


def test_a_preparation_of_before_says_nothing_of_what_its_version_did_not_know() -> None:
    data = json.loads((BEFORE / Prepared.FILE).read_bytes())
    prepared = Prepared.model_validate(data)
    assert (prepared.num_prompts, prepared.num_heldout, prepared.files) == (32, 6, None)
    assert json.loads(encoded(prepared)) == data | {"generation_defaults": {}}


def test_the_numbers_of_a_pack_follow_from_its_records_as_before() -> None:
    manifest = json.loads((BEFORE.parents[1] / "packs" / "golden-eda" / "1" / "manifest.json").read_bytes())
    report = EvalReport.model_validate_json((BEFORE / "evaluate" / "record.json").read_bytes())
    trained = DraftCheckpoint.model_validate_json((BEFORE / "train" / "record.json").read_bytes())
    selected = SelectionManifest.model_validate_json((BEFORE / "select" / "record.json").read_bytes())
    metrics = PackMetrics.of(report, trained, selected)
    assert metrics.model_dump(mode="json") == manifest["metrics"]
    first = report.acceptance[0]
    assert metrics.acceptance_length(first.draft, first.temperature) == first.acceptance_length
    assert metrics.speedup("adapted_draft", 9.0) is None


def test_a_failure_is_written_as_before() -> None:
    result = AttemptResult.model_validate_json(FAILED)
    assert isinstance(result.root, Failed)
    assert encoded(result.root).decode() == FAILED


def test_facts_lie_flat_beside_the_config() -> None:
    config = AdaptConfig.model_validate(CONFIG)
    job = JobFile(id="a", origin="api", created_at=3, config=config, row_fields=JobRowFields(owner="ann", priority=7))
    written = json.loads(encoded(job))
    assert written == {
        "id": "a",
        "origin": "api",
        "created_at": 3,
        "config": config.model_dump(mode="json"),
        "owner": "ann",
        "labels": {},
        "priority": 7,
        "max_attempts": 1,
        "stage_deadlines": {},
        "webhook": None,
        "content_sha256": "",
    }
    assert JobFile.model_validate_json(encoded(job)) == job
    bare = JobFile(id="a", origin="ray", created_at=3, config=config)
    assert set(json.loads(encoded(bare))) == {"id", "origin", "created_at", "config"}
    assert JobFile.model_validate_json(encoded(bare)).row_fields is None


def test_a_draft_that_was_never_better_is_read() -> None:
    trained = Trained(
        step=0,
        best_step=0,
        best_acceptance=-math.inf,
        initial_acceptance=1.0,
        frozen_before="a",
        frozen_after="a",
    )
    assert b'"best_acceptance": -Infinity' in encoded(trained)
    assert TrainOutcome.model_validate_json(encoded(trained)).root == trained
    assert TrainOutcome.model_validate_json('{"failure": "the loss became nan"}').root == Diverged(
        failure="the loss became nan"
    )


def test_fields_of_a_newer_version_are_left_out() -> None:
    assert Best.model_validate_json('{"files": [], "format": 2}') == Best(files=())
    assert StageProgress.model_validate_json('{"stage": "train", "gpu": 0.5}').as_row() == {"stage": "train"}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (AttemptResult, '{"attempt": 1, "status": "failed"}'),
        (AttemptResult, '{"status": "succeeded"}'),
        (AttemptResult, '{"pack": "a@1"'),
        (StageProgress, "[]"),
        (TrainOutcome, '{"step": 1}'),
        (Best, '{"files": [{"path": "../x", "sha256": "", "size_bytes": 1}]}'),
        (JobFile, '{"created_at": 1}'),
    ],
)
def test_what_is_none_of_its_kind_is_a_value_error(kind: type[BaseModel], text: str) -> None:
    with pytest.raises(ValueError, match="validation error"):
        kind.model_validate_json(text)
