"""A stage's fields under the driver's header: what runs, what is skipped, and what follows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.errors import ArtifactCorruptError, EdaError
from eda_service.pipeline.driver import ADAPTING, runner_of
from eda_service.pipeline.stage import StageRunner, run_stage
from eda_service.records import SCHEMA_VERSION, STAGES, SelectionFields, SelectionManifest, SelfGenManifest, Stage
from eda_service.storage.files import file_entry
from eda_service.storage.runs.provenance import library_versions
from eda_service.storage.runs.run import RunDir

CONFIG = AdaptConfig(target=TargetSpec(model="org/model"), seed=7)


class Scene:
    """A stage over a real run directory, which writes one file and counts what is done."""

    def __init__(self, home: Path) -> None:
        self.run, self.done = RunDir(home / "runs" / "adapt_1"), list[str]()
        self.runner = StageRunner(
            SelectionManifest,
            part=lambda config: config.selection,
            run=self.work,
            afterwards=lambda _run: self.done.append("afterwards"),
        )

    def work(self, run: RunDir, _config: AdaptConfig) -> SelectionFields:
        self.done.append("run")
        path = run.stage_dir(Stage.SELECT) / "kept"
        path.write_text("kept", encoding="utf-8")
        return SelectionFields(
            inputs={"prompts": "ab"},
            files=(file_entry(path.parent, path),),
            num_candidates=4,
            num_selected=2,
            keep_fraction=0.5,
            threshold=None,
            selected_ids=("a", "b"),
            num_answer_tokens=9,
            selection_seconds=0.25,
            selection_over_generation_time=0.5,
        )

    def events(self) -> list[str]:
        return [event["type"] for event in self.run.read_events()]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    made = Scene(tmp_path)
    made.run.create(CONFIG, origin="ray")
    return made


def test_a_record_is_the_stages_fields_under_the_header(scene: Scene) -> None:
    record = run_stage(scene.run, CONFIG, scene.runner)
    written = json.loads((scene.run.root / "select" / "record.json").read_text(encoding="utf-8"))
    own = scene.work(scene.run, CONFIG).model_dump(mode="json")
    assert {name: value for name, value in written.items() if name in own} == own
    created_at, seconds = written.pop("created_at"), written.pop("seconds")
    assert {name: value for name, value in written.items() if name not in own} == {
        "schema_version": SCHEMA_VERSION,
        "stage": "select",
        "config": CONFIG.selection.model_dump(mode="json"),
        "seed": 7,
        "library_versions": library_versions(),
    }
    assert created_at == record.created_at
    assert 0 <= seconds < 60
    assert scene.run.require(SelectionManifest) == record


def test_a_stage_with_a_valid_record_is_skipped_and_what_follows_is_done_again(scene: Scene) -> None:
    first = run_stage(scene.run, CONFIG, scene.runner)
    assert run_stage(scene.run, CONFIG, scene.runner) == first
    assert scene.done == ["run", "afterwards", "afterwards"]
    assert scene.events() == ["stage_started", "stage_finished", "stage_skipped"]


def test_a_stage_whose_files_differ_from_its_record_runs_again(scene: Scene) -> None:
    run_stage(scene.run, CONFIG, scene.runner)
    (scene.run.root / "select" / "kept").write_text("other", encoding="utf-8")
    with pytest.raises(ArtifactCorruptError):
        scene.run.require(SelectionManifest)
    run_stage(scene.run, CONFIG, scene.runner)
    assert scene.done == ["run", "afterwards"] * 2
    assert scene.events()[2:] == ["record_invalid", "stage_started", "stage_finished"]
    scene.run.require(SelectionManifest)


def test_a_stage_that_fails_leaves_no_record_and_nothing_follows(scene: Scene) -> None:
    def fail(_run: RunDir, _config: AdaptConfig) -> SelectionFields:
        raise ValueError("no such row")

    with pytest.raises(EdaError, match="ValueError: no such row"):
        run_stage(scene.run, CONFIG, replace(scene.runner, run=fail))
    assert scene.done == []
    with pytest.raises(ArtifactCorruptError, match="has no select record; run stage select first"):
        scene.run.require(SelectionManifest)


def test_a_record_that_cannot_be_written_ends_the_driver_whose_attempt_is_made_again(scene: Scene) -> None:
    def fail(_run: RunDir, _record: SelectionManifest) -> SelectionManifest:
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        run_stage(scene.run, CONFIG, replace(scene.runner, keep=fail))
    assert scene.done == ["run"]


def test_the_record_that_counts_goes_on(scene: Scene) -> None:
    other = scene.runner.record_of(CONFIG, scene.work(scene.run, CONFIG), seconds=3.0)
    assert run_stage(scene.run, CONFIG, replace(scene.runner, keep=lambda _run, _record: other)) is other


def test_an_adaptation_is_every_stage_in_order() -> None:
    assert [runner.record.STAGE for runner in ADAPTING] == list(STAGES)
    assert runner_of(Stage.GENERATE).record is SelfGenManifest
