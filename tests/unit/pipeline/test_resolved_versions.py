"""A draft named without a version is one version through a whole job, whatever is registered while it runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from draft_files import put_draft
from job_files import fingerprint, write_records
from pack_files import put_pack

from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.config.tasks import MeasureConfig
from eda_service.measurement import Measurement
from eda_service.pipeline import measure
from eda_service.pipeline.driver import ADAPTING
from eda_service.pipeline.stage import StageRunner, run_stage
from eda_service.records import Stage
from eda_service.storage.published.registry import find_draft
from eda_service.storage.runs.run import RunDir


def test_every_stage_after_validate_has_the_version_that_it_found(home: Path) -> None:
    put_draft(home, "small", 1)
    config = AdaptConfig(target=TargetSpec(model="org/model"), base_draft="small")
    run = RunDir.of_job("adapt_1")
    run.create(config, origin="ray")
    write_records(run, config.model_copy(update={"base_draft": "small@1"}))  # what stage validate wrote
    put_draft(home, "small", 2)
    assert find_draft("small").name == "2"
    seen: dict[Stage, str] = {}

    class SeenError(Exception):
        pass

    def listening(runner: StageRunner[Any]) -> StageRunner[Any]:
        def work(_run: RunDir, given: AdaptConfig) -> Any:
            seen[runner.record.STAGE] = given.base_draft
            raise SeenError

        return StageRunner(runner.record, part=runner.part, run=work)

    for runner in ADAPTING[1:]:
        (run.root / runner.record.STAGE.value / "record.json").unlink(missing_ok=True)
        with pytest.raises(Exception, match="SeenError"):
            run_stage(run, config, listening(runner))
    assert seen == dict.fromkeys([runner.record.STAGE for runner in ADAPTING[1:]], "small@1")


def test_a_measurement_says_which_version_it_measured(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_draft(home, "small", 1)
    put_draft(home, "small", 2)
    put_pack(home, "own", 1.5, base_draft="small@2")
    asked: list[MeasureConfig] = []

    def remote(config: MeasureConfig) -> Any:
        asked.append(config)
        put_draft(home, "small", 2 + len(asked))  # and the task might be tried again
        return fingerprint(), Measurement(num_prompts=1)

    monkeypatch.setattr(measure, "_measure", SimpleNamespace(options=lambda **_: SimpleNamespace(remote=remote)))
    monkeypatch.setattr(measure, "connect", lambda: None)
    monkeypatch.setattr(measure, "require_gpus", lambda _: None)
    monkeypatch.setattr(ray, "get", lambda value: value)
    config = MeasureConfig(target=TargetSpec(model="org/model"), draft="small", pack="own")
    run = RunDir.of_job("measure_1")
    run.create(config, origin="ray")
    fields = measure.run_measure(run, config)
    assert (fields.draft, fields.pack) == ("small@2", "own@1")
    assert [(each.draft, each.pack) for each in asked] == [("small@2", "own@1")]
