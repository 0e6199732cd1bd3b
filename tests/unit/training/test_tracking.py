"""Tracking: TensorBoard, a missing extra, a tracker that fails in the middle. The rest: `make test-tracking`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.config.track import TrackConfig
from eda_service.errors import InputError
from eda_service.storage.runs.run import RunDir
from eda_service.training.trackers.report import Report
from eda_service.training.trackers.tensorboard import tensorboard
from eda_service.training.tracking import check_installed, each_on_its_own, open_trackers


def config(**track: object) -> AdaptConfig:
    return AdaptConfig(target=TargetSpec(model="m"), track=TrackConfig.model_validate(track))


def scalars(run: RunDir) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard reads, by name."""
    found = EventAccumulator(str(run.root / "train" / "tensorboard"))
    found.Reload()
    return {
        name: [(event.step, round(event.value, 4)) for event in found.Scalars(name)] for name in found.Tags()["scalars"]
    }


def test_tensorboard_has_what_every_stage_logged(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for values, step in (({"loss/total": 2.5, "learning_rate": 0.01}, 1), ({"loss/total": 1.25}, 2)):
        with open_trackers(run, config()) as report:  # each time anew, as stages and restarted groups do
            report(step, values)
    assert scalars(run) == {"loss/total": [(1, 2.5), (2, 1.25)], "learning_rate": [(1, 0.01)]}


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_extra_is_refused_with_the_next_step(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf"pip install 'eda-service\[{name}\]'") as caught:
        check_installed(TrackConfig.model_validate({"to": [name]}))
    assert caught.value.param == "track.to"
    check_installed(TrackConfig())


def test_unknown_trackers_and_projects_are_refused() -> None:
    for wrong in ({"to": ["comet"]}, {"project": "a/b"}, {"project": ""}):
        with pytest.raises(ValidationError):
            TrackConfig.model_validate(wrong)


def test_a_tracker_that_fails_is_left_out_and_said_once(tmp_path: Path) -> None:
    """It takes one value, then none, and cannot be closed either."""
    run, asked, said = RunDir(tmp_path), list[int](), list[str]()

    @contextmanager
    def broken() -> Iterator[Report]:
        def report(step: int, _: Mapping[str, float]) -> None:
            asked.append(step)
            if step > 1:
                raise ConnectionError("the server is gone\nfor good")

        try:
            yield report
        finally:
            raise ConnectionError("nor is there anybody to say goodbye to")

    with each_on_its_own({"far": broken, "tensorboard": lambda: tensorboard(run, config())}, said.append) as report:
        for step in (1, 2, 3):
            report(step, {"loss/total": 0.5})
    assert asked == [1, 2]
    assert said == ["far is not told any more: ConnectionError: the server is gone for good"]
    assert scalars(run) == {"loss/total": [(1, 0.5), (2, 0.5), (3, 0.5)]}


def test_a_tracker_that_cannot_be_opened_is_an_event_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    run = RunDir(tmp_path)
    with open_trackers(run, config(to=["mlflow"])) as report:
        report(1, {"loss/total": 0.5})
    (event,) = run.read_events()
    assert (event["type"], event["level"]) == ("tracking_failed", "warning")
    assert "mlflow" in event["message"]
    assert scalars(run) == {"loss/total": [(1, 0.5)]}
