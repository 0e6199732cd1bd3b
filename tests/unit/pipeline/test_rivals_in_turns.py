"""Published packs measured beside a job's own: which are loaded, what is measured, and on which evaluation."""

from __future__ import annotations

import dataclasses
import shutil
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from adapted_packs import publish_adapted
from tiny_models import register_draft
from trained_job import PROMPTS, TRAIN, trained_job

from eda_service.config.job import AdaptConfig
from eda_service.drafts.draft import Draft
from eda_service.measured_rows import AcceptanceRow
from eda_service.pipeline.evaluate import EvaluationRun, Measurements
from eda_service.pipeline.prepare import HELDOUT_FILE, read_prompt_file, write_prompt_file
from eda_service.pipeline.side_by_side import PREFIX
from eda_service.records import ADAPTED, BASE, Stage
from eda_service.storage.published.fixed_evaluation import FixedEvaluation, propose
from eda_service.storage.runs.rivals import Rivals
from eda_service.storage.runs.run import RunDir
from eda_service.targets.loader import Target

pytestmark = pytest.mark.slow

SERVED = Rivals(served="math@1", champion="math@1")
OTHER_PROMPTS = tuple(f"the assistant wants {n} of them" for n in range(3))


def measure(job: tuple[RunDir, AdaptConfig], target: Target, rivals: Rivals) -> Measurements:
    return EvaluationRun(*job).measure(rivals, target.fingerprint)


def lengths(rows: Sequence[AcceptanceRow], draft: str) -> list[tuple[float, float, int]]:
    return [(row.temperature, row.acceptance_length, row.num_rounds) for row in rows if row.draft == draft]


def fixed_files(home: Path) -> list[Path]:
    return sorted((home / "packs" / "math").glob(".evaluation-*"))


def test_a_rival_is_measured_as_if_it_were_the_jobs_own(home: Path, base_draft_dir: Path, tiny_target: Target) -> None:
    publish_adapted(home, base_draft_dir, tiny_target, TRAIN, std=0.01, name="math")
    own = measure(trained_job(home, base_draft_dir, tiny_target, "alone", std=0.01), tiny_target, Rivals())
    job = trained_job(home, base_draft_dir, tiny_target, "beside", std=0.05, num_timed_prompts=1, num_timed_repeats=2)
    found = measure(job, tiny_target, SERVED)
    (rival,) = found.rivals
    assert (rival.pack, rival.roles, rival.left_out) == ("math@1", ("served", "champion"), None)
    assert lengths(rival.acceptance, "pack:math@1") == lengths(own.acceptance, ADAPTED)
    assert len(lengths(rival.acceptance, "pack:math@1")) == 2
    assert lengths(found.acceptance, ADAPTED) != lengths(own.acceptance, ADAPTED)
    assert {row.draft for row in found.acceptance} == {BASE, ADAPTED}
    assert {row.mode for row in rival.speed} == {PREFIX + "math@1"}
    assert len(rival.speed) == 2
    assert len(found.speed) == 6
    assert own.rivals == ()


def test_a_rival_that_cannot_be_measured_is_left_out_with_its_reason(
    home: Path,
    base_draft_dir: Path,
    tiny_target: Target,
    make_target: Callable[[str], Target],
    make_fitted_draft: Callable[[str], Draft],
) -> None:
    other = make_target("qwen2")
    publish_adapted(home, base_draft_dir, other, TRAIN, name="math")
    job = trained_job(home, base_draft_dir, tiny_target, "job", std=0.01)
    gone = register_draft(home, make_fitted_draft("llama"), tiny_target, name="short-lived")
    publish_adapted(home, gone, tiny_target, TRAIN, name="math")
    shutil.rmtree(gone)
    publish_adapted(home, base_draft_dir, tiny_target, TRAIN, name="math")
    (home / "packs" / "math" / "3" / "pack.safetensors").write_bytes(b"other")
    reasons = {}
    for pack in ("math@1", "math@2", "math@3", "math@4"):
        found = measure(job, tiny_target, Rivals(served=pack))
        (rival,) = found.rivals
        assert (rival.acceptance, rival.speed) == ((), ())
        assert len(found.acceptance) == 4
        reasons[pack] = rival.left_out
    assert "weights_sha256" in reasons["math@1"]
    assert "no base draft 'short-lived@1'" in reasons["math@2"]
    assert "sha256" in reasons["math@3"]
    assert "no pack 'math@4'" in reasons["math@4"]


def test_the_first_job_makes_the_fixed_evaluation_and_the_next_ones_are_measured_there(
    home: Path, base_draft_dir: Path, tiny_target: Target
) -> None:
    publish_adapted(home, base_draft_dir, tiny_target, TRAIN, std=0.01, name="math")
    first = measure(trained_job(home, base_draft_dir, tiny_target, "first", std=0.0), tiny_target, Rivals())
    (path,) = fixed_files(home)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert all(prompt in path.read_text() for prompt in PROMPTS)
    assert first.fixed.lengths == {ADAPTED: first.acceptance[1].acceptance_length}
    assert not list((home / "packs" / "math" / "1").glob("*evaluation*"))

    tree = {"size": 8, "depth": 3, "width": 2}
    job = trained_job(home, base_draft_dir, tiny_target, "next", std=0.0, prompts=OTHER_PROMPTS, tree=tree)
    found = measure(job, tiny_target, SERVED)
    assert fixed_files(home) == [path]
    assert found.fixed.evaluation == first.fixed.evaluation
    assert found.fixed.lengths[ADAPTED] == first.fixed.lengths[ADAPTED]  # equal packs, equal there
    assert found.acceptance[1].acceptance_length != first.fixed.lengths[ADAPTED]
    own = measure(trained_job(home, base_draft_dir, tiny_target, "same", std=0.01), tiny_target, Rivals())
    assert found.fixed.lengths["math@1"] == own.acceptance[1].acceptance_length


def test_held_out_prompts_that_the_template_refuses_are_left_out_and_tools_are_measured_with(
    home: Path, base_draft_dir: Path, tiny_target: Target
) -> None:
    run, config = trained_job(home, base_draft_dir, tiny_target, "job", std=0.0, num_prompts=2)
    path = run.stage_dir(Stage.GENERATE) / HELDOUT_FILE
    plain = read_prompt_file(path)[:1]
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    write_prompt_file(path, [dataclasses.replace(plain[0], id="with", tools=tools), *plain])
    evaluation = EvaluationRun(run, config)
    assert [each.id for each in evaluation.heldout] == ["0"]
    (event,) = [each for each in run.read_events() if each["type"] == "rows_skipped"]
    assert "with: the target's chat template leaves out the tools" in event["message"]

    proposal = propose(config, [plain[0].messages, plain[0].messages], [{}, {"tools": tools}])
    assert FixedEvaluation.model_validate_json(proposal.text) == proposal
    assert "beside" not in propose(config, [plain[0].messages], [{}]).text  # as versions before wrote it


def test_a_rival_that_has_a_score_there_is_not_measured_again(
    home: Path, base_draft_dir: Path, tiny_target: Target
) -> None:
    first = measure(trained_job(home, base_draft_dir, tiny_target, "first", std=0.0), tiny_target, Rivals())
    scores = {"fixed": (first.fixed.evaluation, {"math@1": 1.5})}
    publish_adapted(home, base_draft_dir, tiny_target, TRAIN, std=0.01, name="math", **scores)
    job = trained_job(home, base_draft_dir, tiny_target, "next", std=0.01, prompts=OTHER_PROMPTS)
    assert set(measure(job, tiny_target, SERVED).fixed.lengths) == {ADAPTED}


def test_each_owner_has_a_fixed_evaluation_of_its_own(home: Path, base_draft_dir: Path, tiny_target: Target) -> None:
    job = trained_job(home, base_draft_dir, tiny_target, "job", std=0.01)
    ids = {
        measure(job, tiny_target, Rivals(owner="ada")).fixed.evaluation,
        measure(
            trained_job(home, base_draft_dir, tiny_target, "his", std=0.01, prompts=OTHER_PROMPTS),
            tiny_target,
            Rivals(owner="bob"),
        ).fixed.evaluation,
    }
    assert len(ids) == len(fixed_files(home)) == 2


def test_a_fixed_evaluation_that_cannot_be_used_fails_no_job(
    home: Path, base_draft_dir: Path, tiny_target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = trained_job(home, base_draft_dir, tiny_target, "job", std=0.01)
    measure(job, tiny_target, Rivals())
    fixed_files(home)[0].write_text("{}")
    assert measure(job, tiny_target, Rivals()).fixed is None
    (event,) = [each for each in job[0].read_events() if each["type"] == "fixed_evaluation_left_out"]
    assert "does not parse; remove it" in event["message"]
