"""Configs of the kinds of jobs: which class a stored one is of, and what stands in for a name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from eda_service.capacity import Capacity
from eda_service.config.export_forms import Destination
from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.config.tasks import (
    ID_PREFIXES,
    ExportConfig,
    ImportConfig,
    JobKind,
    MeasureConfig,
    Task,
    kind_of,
    parse_task,
)
from eda_service.errors import InputError
from eda_service.planning.placement import needed_at_once
from eda_service.storage.runs.run import RunDir
from eda_service.storage.runs.state import AttemptResult, Succeeded, encoded

TARGET = TargetSpec(model="org/base")
TASKS: dict[JobKind, Task] = {
    JobKind.ADAPT: AdaptConfig(target=TARGET),
    JobKind.IMPORT_DRAFT: ImportConfig(target=TARGET, source="org/draft", overrides={"layers": "[1, 2]"}),
    JobKind.MEASURE: MeasureConfig(target=TARGET, draft="small@1", temperatures=(0.0,)),
    JobKind.EXPORT: ExportConfig(target=TARGET, pack="math@1", to=Destination.SGLANG),
}


@pytest.mark.parametrize("kind", JobKind)
def test_a_stored_config_is_read_as_what_it_was(kind: JobKind, tmp_path: Path) -> None:
    task = TASKS[kind]
    stored = json.loads(task.model_dump_json())
    assert stored.get("kind", "adapt") == kind.value
    assert parse_task(stored) == task
    assert kind_of(task) is kind
    run = RunDir.of_job(f"{ID_PREFIXES[kind]}_1", tmp_path)
    run.create(task, origin="ray")
    assert run.task() == task
    job = run.read_job()
    assert job is not None
    assert type(job.config) is type(task)
    if kind is JobKind.ADAPT:
        assert run.config() == task
        assert "kind" not in json.loads((run.root / "job.json").read_text())["config"]  # versions before read it
    else:
        with pytest.raises(InputError, match="no adaptation"):
            run.config()


@pytest.mark.parametrize(
    "value", [{"kind": "other", "target": {"model": "m"}}, {"kind": 5}, {"kind": "measure"}, [], 5]
)
def test_what_is_of_no_kind_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"kind|object|draft|target"):
        parse_task(value)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("org/EAGLE3-Llama.3-8B", "EAGLE3-Llama.3-8B"),
        ("/data/drafts/my draft/", "my-draft"),
        ("/data/_hidden", "hidden"),
        ("/x/" + "a" * 300, "a" * 96),
    ],
)
def test_a_name_comes_from_the_source(source: str, name: str) -> None:
    assert ImportConfig(target=TARGET, source=source).draft_name == name
    assert ImportConfig(target=TARGET, source=source, name="mine").draft_name == "mine"


def test_fields_are_bounded() -> None:
    for changes in ({"overrides": {"A": "1"}}, {"overrides": {"a": "x" * 300}}, {"name": "a/b"}, {"other": 1}):
        with pytest.raises(ValidationError):
            ImportConfig.model_validate({"target": {"model": "m"}, "source": "s", **changes})
    with pytest.raises(ValidationError, match="names one twice"):
        MeasureConfig(target=TARGET, draft="small@1", temperatures=(1.0, 1.0))


def test_an_import_asks_for_one_process_beside_its_own() -> None:
    assert needed_at_once(TASKS[JobKind.IMPORT_DRAFT]) == Capacity(cpus=0.6, gpus=0)
    assert needed_at_once(MeasureConfig(target=TARGET, draft="small@1", use_gpu=True)) == Capacity(cpus=0.6, gpus=1)


def test_a_result_names_one_thing() -> None:
    assert json.loads(encoded(Succeeded(pack="p@1"))) == {
        "attempt": 1, "finished_at": 0, "pack": "p@1", "status": "succeeded",
    }  # fmt: skip
    read = AttemptResult.model_validate_json(encoded(Succeeded(result="d@2"))).root
    assert isinstance(read, Succeeded)
    assert (read.pack, read.result) == (None, "d@2")
    for neither in ({}, {"pack": "p@1", "result": "d@1"}):
        with pytest.raises(ValidationError):
            Succeeded.model_validate(neither)
