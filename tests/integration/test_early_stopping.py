"""Training that ends when simulated acceptance has stopped rising, in real groups of two workers, crashes included.

33 samples, 3 of them held out, in batches of 6: five steps an epoch.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from training_group import train
from training_inputs import curve_of, pack_of
from waiting import TEST_TIMEOUT_S

from eda_service.storage.runs.curve import Curve
from eda_service.storage.runs.run import RunDir

pytestmark = [pytest.mark.integration, pytest.mark.timeout(TEST_TIMEOUT_S)]


def evaluations(files: Path, name: str) -> dict[int, float]:
    points = {point.step: point.simulated_acceptance_length for point in curve_of(files, name)}
    return {step: length for step, length in points.items() if length is not None}


def test_training_ends_after_epochs_without_gain_and_a_restart_ends_it_there_too(
    cluster: None, group_inputs: Path
) -> None:
    """At a rate at which no draft can get better, two epochs of patience are two epochs of training."""
    settings = {"epochs": 6, "learning_rate": 1e-12, "early_stopping_patience": 2, "checkpoint_every_steps": 5}
    ended = train(group_inputs, "hopeless", **settings)
    assert (ended.step, ended.best_step) == (10, 0)
    assert list(evaluations(group_inputs, "hopeless")) == [0, 5, 10]
    stops = [event for event in RunDir(group_inputs / "runs" / "hopeless").read_events() if "stopped" in event["type"]]
    assert [event["message"] for event in stops] == [
        "stopped at step 10: simulated acceptance has not risen since step 0"
    ]
    pack = pack_of(group_inputs, "hopeless").read_bytes()
    again = train(group_inputs, "hopeless", **settings)  # from the checkpoint of step 10
    assert (again.step, again.best_step, again.restarts) == (10, 0, 1)
    assert pack_of(group_inputs, "hopeless").read_bytes() == pack


def test_an_epoch_whose_end_was_checkpointed_but_not_evaluated_is_evaluated(cluster: None, group_inputs: Path) -> None:
    """What a crash between the two leaves: a checkpoint of step 10, and a curve that ends there without acceptance.

    Three epochs of patience are as many as there are: none is left out.
    """
    settings = {"epochs": 3, "checkpoint_every_steps": 5, "num_workers": 1, "early_stopping_patience": 3}
    ended = train(group_inputs, "crashed", **settings)
    assert ended.step == 15
    before = evaluations(group_inputs, "crashed")
    assert list(before) == [0, 5, 10, 15]
    curve = Curve(group_inputs / "runs" / "crashed" / "train")
    curve.keep(lambda point: point.step < 10 or (point.step == 10 and point.simulated_acceptance_length is None))
    again = train(group_inputs, "crashed", **settings)
    assert evaluations(group_inputs, "crashed") == before
    assert (again.best_step, again.best_acceptance) == (ended.best_step, ended.best_acceptance)
