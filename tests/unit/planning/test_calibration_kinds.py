"""A job that has ended, read from its records: planned again with what it left, it takes what it took, whatever kind of
draft it adapted.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from draft_files import put_draft
from job_files import record_of, write_records
from tiny_models import write_target

from eda_service.config.job import AdaptConfig
from eda_service.drafts.draft_config import Eagle3Config
from eda_service.errors import BaseDraftMissingError, InputError
from eda_service.planning.constants import CORE
from eda_service.planning.dry_run import expected_plan
from eda_service.planning.kept import keep_calibration, kept_calibration
from eda_service.planning.measured import measure
from eda_service.planning.plan import make_plan
from eda_service.planning.shapes import SHAPES, draft_of
from eda_service.planning.workload import workload
from eda_service.records import DraftCheckpoint, Stage
from eda_service.storage.files import write_json
from eda_service.storage.runs.run import RunDir
from eda_service.targets.files.shape import shape_of_target

STARTING_S = 40.0
"""Of stage train, until its workers compute."""


def ended_job(root: Path, kind: str) -> RunDir:
    """A job on a tiny target with a draft of a kind, and the records of all its stages."""
    target = write_target(root / "model", "llama")
    directory = put_draft(root / "home")
    if kind == "eagle3":
        shape = json.loads((directory / "config.json").read_text())
        write_json(directory / "config.json", {**shape, "kind": "eagle3", "layers": [0, 1, 2], "draft_vocab_size": 64})
    train = {"loss": {"unroll_steps": 2}}  # as many for either kind, so that only their shapes differ
    config = AdaptConfig.model_validate({"target": {"model": str(target)}, "base_draft": "small@1", "train": train})
    run = RunDir.of_job("adapt_1", root / "home")
    run.create(config, origin="api")
    write_records(run, config)
    trained = DraftCheckpoint.model_validate(record_of(Stage.TRAIN))
    run.write_record(trained.model_copy(update={"training_seconds": trained.seconds - STARTING_S}))
    return run


@pytest.mark.parametrize("kind", ["eagle1", "eagle3"])
def test_a_job_planned_again_takes_what_it_took(tmp_path: Path, kind: str) -> None:
    run = ended_job(tmp_path, kind)
    keep_calibration(run)
    measured = measure(run.root)
    assert measured.draft.kind == kind
    # The dry run looks at the draft by itself; its lengths are the caps, the job's are what it wrote.
    shape = shape_of_target(measured.config.target)
    dry, calibration = expected_plan(measured.config, shape, measured.draft, run.home)
    assert calibration == kept_calibration(run.home, CORE)
    again = make_plan(measured.config, shape, CORE, measured.lengths, calibration, measured.draft)
    for stage in (Stage.TRAIN, Stage.EVALUATE):
        assert again.stage(stage).seconds == pytest.approx(record_of(stage)["seconds"])
    assert again.stage("generate").seconds == pytest.approx(300.0)
    assert dry.stage("generate").tokens > again.stage("generate").tokens


def test_what_training_took_is_spread_over_what_the_kind_computes(tmp_path: Path) -> None:
    runs = {kind: ended_job(tmp_path / kind, kind) for kind in ("eagle1", "eagle3")}
    found = {kind: measure(run.root) for kind, run in runs.items()}
    work = {
        kind: workload(each.config, each.shape, each.lengths, each.draft).flops_per_token
        for kind, each in found.items()
    }
    factors = {kind: each.calibration(CORE).train for kind, each in found.items()}
    assert work["eagle1"] - work["eagle3"] == 8 * (112 - 64) * 32  # rows of its own head, of width 32
    # The same seconds for less work are a larger factor.
    assert factors["eagle3"] > factors["eagle1"]


def test_without_its_base_draft_a_job_calibrates_nothing(tmp_path: Path) -> None:
    run = ended_job(tmp_path, "eagle1")
    (run.home / "drafts" / "small" / "1" / "manifest.json").unlink()
    with pytest.raises(BaseDraftMissingError):
        keep_calibration(run)
    assert kept_calibration(run.home, CORE) is None


def test_a_published_sizes_draft_of_either_kind() -> None:
    eagle1, eagle3 = (draft_of(SHAPES["8b"], kind) for kind in ("eagle1", "eagle3"))
    assert (eagle1.captures, eagle1.own_vocab_size) == ((), None)
    assert isinstance(eagle3, Eagle3Config)
    assert (eagle3.captures, eagle3.own_vocab_size) == ((2, 16, 29), 32_000)  # as published for Llama-3.1-8B
    # fc 3D x D, attention over 2D (q and o of 32 heads, k and v of 8), FFN, norms, and the head's rows
    attention = 2 * 4096 * (32 + 2 * 8) * 128 + 32 * 128 * 4096
    assert eagle3.sizes.fuse == 3 * 4096 * 4096
    assert eagle3.sizes.attention == attention
    assert eagle3.sizes.others == 4 * 4096 + 32_000 * 4096 + 3 * 4096 * 14_336
    with pytest.raises(InputError, match="there are eagle1, eagle3"):
        draft_of(SHAPES["8b"], "medusa")
