"""Early training on a real Ray: it begins while shards are generated, and interruptions change no byte of the pack."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_job import CONFIG, write_prompts
from tiny_models import register_draft
from waiting import TEST_TIMEOUT_S

from eda_service.config.job import AdaptConfig
from eda_service.drafts.draft import Draft
from eda_service.pipeline.driver import run_stage
from eda_service.records import DraftCheckpoint, SelfGenManifest, Stage
from eda_service.storage.run import RunDir
from eda_service.storage.shards import read_shard
from eda_service.storage.state import Early
from eda_service.targets.loader import Target

pytestmark = [pytest.mark.integration, pytest.mark.timeout(TEST_TIMEOUT_S)]

TRAIN = {**CONFIG["train"], "early_epochs": 3, "early_fraction": 0.34, "heldout_fraction": 0.2, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def config(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_target: Target,
    target_dir: Callable[[str], Path],
    make_fitted_draft: Callable[..., Draft],
) -> Iterator[AdaptConfig]:
    home = tmp_path_factory.mktemp("early")
    register_draft(home, make_fitted_draft("llama"), tiny_target)
    made: dict[str, Any] = {
        **CONFIG,
        "target": {"model": str(target_dir("llama")), "dtype": "float32"},
        "base_draft": "tiny@1",
        "dataset": write_prompts(home / "prompts.jsonl"),
        "train": TRAIN,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDA_HOME", str(home))
        yield AdaptConfig.model_validate(made)


def run_stages(run: RunDir, config: AdaptConfig, *stages: Stage) -> None:
    for stage in stages:
        run_stage(run, config, stage)


@pytest.fixture(scope="module")
def run(cluster: None, config: AdaptConfig) -> RunDir:
    """A job up to its trained draft; `<its directory>-generated` is what it was when it had generated."""
    made = RunDir.of_job("early")
    made.create(config, origin="ray")
    run_stages(made, config, Stage.VALIDATE, Stage.GENERATE)
    shutil.copytree(made.root, f"{made.root}-generated")
    run_stages(made, config, Stage.SELECT, Stage.TRAIN)
    return made


def trained(run: RunDir) -> DraftCheckpoint:
    record = run.read_record(DraftCheckpoint, Stage.TRAIN)
    assert record is not None
    return record


def test_training_begins_before_generation_ends(run: RunDir) -> None:
    kinds = [(event["type"], event["stage"]) for event in run.read_events()]
    generated = kinds.index(("stage_finished", "generate"))
    assert kinds.index(("early_training_started", "train")) < kinds.index(("early_training_finished", "train"))
    assert kinds.index(("early_training_finished", "train")) < generated
    done = run.read(Early)
    assert done is not None
    assert done.generated == ("shard-00000",)
    manifest = run.read_record(SelfGenManifest, Stage.GENERATE)
    assert manifest is not None
    assert len({score.shard for score in manifest.scores}) == 3


def test_the_whole_set_is_trained_on_where_early_training_ended(run: RunDir) -> None:
    """4 of the first 8 samples, three times one step; then 12 of 24, less 2 held out, three times three steps."""
    record = trained(run)
    assert record.num_steps == 3 * 1 + 3 * 3
    losses = [point.step for point in record.curve if point.simulated_acceptance_length is None]
    assert losses == list(range(1, 13))
    measured = {point.step: point.simulated_acceptance_length for point in record.curve if point.step not in losses}
    assert measured == {0: record.initial_simulated_acceptance_length}
    evaluated = [point.step for point in record.curve if point.simulated_acceptance_length is not None]
    assert evaluated == [0, 3, 6, 9, 12]
    assert record.best_simulated_acceptance_length >= record.initial_simulated_acceptance_length >= 1.0


def test_hidden_states_of_early_training_are_gone_and_none_of_its_prompts_is_held_out(run: RunDir) -> None:
    directory = run.stage_dir(Stage.TRAIN) / "early"
    assert [path.name for path in directory.iterdir()] == ["shard-00000.tokens.safetensors"]
    assert len(list(read_shard(directory, "shard-00000", features=False))) == 4


def test_a_driver_that_died_before_it_noted_early_training_ends_with_the_same_pack(
    run: RunDir, config: AdaptConfig
) -> None:
    before = trained(run)
    shutil.rmtree(run.root)
    shutil.copytree(f"{run.root}-generated", run.root)
    run.remove(Early.FILE)
    (run.stage_dir(Stage.GENERATE) / "record.json").unlink()
    run_stages(run, config, Stage.GENERATE, Stage.SELECT, Stage.TRAIN)
    after = trained(run)
    assert after.files == before.files
    assert after.num_steps == before.num_steps
    assert [(point.step, point.loss) for point in after.curve] == [(point.step, point.loss) for point in before.curve]
