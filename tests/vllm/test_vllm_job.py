"""A whole adaptation with `target.engine=vllm` beside the same one with the project's own engine, record by record.

In float32 at temperature 0 the answers are the same tokens, and the states the same up to rounding; so are the samples
that are selected and the steps that are trained. The target is a tiny Llama with a LoRA adapter, which vLLM adds
itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from tiny_models import fit_draft, register_draft, write_adapter

from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.errors import NotWorthItError
from eda_service.pipeline.driver import ADAPTING, run_pipeline
from eda_service.pipeline.stage import run_stage
from eda_service.raycluster.resources import connect
from eda_service.records import (
    ADAPTED,
    DraftCheckpoint,
    EvalReport,
    SelectionManifest,
    SelfGenManifest,
    Stage,
    ValidateRecord,
)
from eda_service.storage.runs.rivals import Rivals
from eda_service.storage.runs.run import RunDir
from eda_service.storage.samples.shards import Sample, read_shard
from eda_service.targets.loader import Target, load_target

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]

WORDS = ("the", "user", "and", "other", "one", "assistant")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, wide_target: Target) -> Iterator[Path]:
    """A home with a base draft of the base, an adapter, prompts, and a private Ray."""
    directory = tmp_path_factory.mktemp("vllm-job")
    register_draft(directory, fit_draft(wide_target), wide_target)
    write_adapter(Path(wide_target.spec.model), directory / "adapter", seed=0, std=0.05)
    texts = [" ".join(WORDS[(i + j) % 6] for j in range(2 + i % 5)) for i in range(27)] + ["c" * 320]
    rows = "".join(json.dumps({"prompt": f"{text} {i}"}) + "\n" for i, text in enumerate(texts))
    (directory / "prompts.jsonl").write_text(rows)
    os.environ["EDA_HOME"] = str(directory)
    yield directory
    ray.shutdown()
    del os.environ["EDA_HOME"]


@dataclass(frozen=True)
class Job:
    """A finished job, and the samples that it had while it trained."""

    run: RunDir
    samples: list[Sample]


def config_of(home: Path, base: Target, engine: str, **more: Any) -> AdaptConfig:
    return AdaptConfig.model_validate(
        {
            "target": {
                "model": base.spec.model,
                "adapter": str(home / "adapter"),
                "dtype": "float32",
                "engine": engine,
                "vllm": {"enforce_eager": True},
            },
            "base_draft": "tiny@1",
            "served_name": f"by-{engine}",
            "dataset": {"source": str(home / "prompts.jsonl"), "num_prompts": 28},
            "selfgen": {
                "temperature": 0.0,
                "max_new_tokens": 24,
                "max_prompt_tokens": 300,
                "shard_size": 12,
                "batch_size": 8,
                "threads_per_actor": 1,
            },
            "selection": {"num_reference_prompts": 8, "reference_max_new_tokens": 8, "pca_dim": 4},
            "train": {
                "epochs": 12,
                "batch_size": 4,
                "learning_rate": 2e-3,
                "num_workers": 1,
                "precision": "float32",
            },
            "evaluation": {
                "num_prompts": 6,
                "max_new_tokens": 24,
                "num_draft_tokens": 3,
                "temperatures": [0.0],
                "num_timed_prompts": 2,
                "num_timed_repeats": 1,
                "threads": 1,
            },
            "deploy": {"min_gain": 0, "min_speed_gain": 0},
            **more,
        }
    )


def adapted(home: Path, base: Target, engine: str) -> Job:
    config = config_of(home, base, engine)
    run = RunDir.of_job(f"adapt_{engine}", home)
    run.create(config, origin="ray")
    connect()
    for runner in ADAPTING[:2]:
        run_stage(run, config, runner)
    samples = samples_of(run)  # features are deleted when the job has ended
    run_pipeline(run, config)
    return Job(run, samples)


@pytest.fixture(scope="module")
def jobs(home: Path, wide_target: Target) -> tuple[Job, Job]:
    """(by the own engine, by vLLM)."""
    return adapted(home, wide_target, "eda"), adapted(home, wide_target, "vllm")


def samples_of(run: RunDir) -> list[Sample]:
    directory = run.root / Stage.GENERATE.value
    names = sorted(path.name.split(".")[0] for path in directory.glob("shard-*.tokens.safetensors"))
    return [sample for name in names for sample in read_shard(directory, name)]


def test_validate_says_who_runs_the_target(jobs: tuple[Job, Job]) -> None:
    own, made = (job.run.require(ValidateRecord) for job in jobs)
    assert (own.engine, made.engine) == ("eda", "vllm")
    assert (made.target, made.prompts_sha256) == (own.target, own.prompts_sha256)


def test_answers_are_the_same_tokens_and_states_the_same_numbers(jobs: tuple[Job, Job]) -> None:
    own, made = (job.samples for job in jobs)
    assert [(each.sample_id, each.token_ids) for each in made] == [(each.sample_id, each.token_ids) for each in own]
    for found, expected in zip(made, own, strict=True):
        assert found.features is not None
        assert expected.features is not None
        torch.testing.assert_close(found.features, expected.features, rtol=2e-3, atol=2e-3)  # float16 on storage
    first, second = (job.run.require(SelfGenManifest) for job in jobs)
    assert (second.num_tokens, second.skipped) == (first.num_tokens, first.skipped)
    assert [each.sample_value for each in second.scores] == pytest.approx(
        [each.sample_value for each in first.scores], rel=0.02
    )


def test_the_same_samples_are_selected(jobs: tuple[Job, Job]) -> None:
    own, made = (job.run.require(SelectionManifest) for job in jobs)
    assert made.num_selected == own.num_selected
    assert made.num_answer_tokens == own.num_answer_tokens


def test_the_draft_trains_alike_and_accepts_alike(jobs: tuple[Job, Job]) -> None:
    own, made = (job.run.require(DraftCheckpoint) for job in jobs)
    assert made.num_steps == own.num_steps
    assert made.best_simulated_acceptance_length == pytest.approx(own.best_simulated_acceptance_length, rel=0.02)
    ours, theirs = (job.run.require(EvalReport) for job in jobs)
    assert [row.draft for row in theirs.acceptance] == [row.draft for row in ours.acceptance]
    for found, expected in zip(theirs.acceptance, ours.acceptance, strict=True):
        assert found.acceptance_length == pytest.approx(expected.acceptance_length, rel=0.05)
    assert (theirs.lossless.num_different, theirs.lossless.num_prompts) == (0, ours.lossless.num_prompts)
    assert {row.mode for row in theirs.speed} == {row.mode for row in ours.speed}
    adapted_row = next(row for row in theirs.acceptance if row.draft == ADAPTED)
    assert adapted_row.num_rounds > 0


def test_the_loaded_target_is_the_one_that_both_ran(home: Path, wide_target: Target, jobs: tuple[Job, Job]) -> None:
    """Oracle: the merged model, greedy."""
    spec = TargetSpec(model=wide_target.spec.model, adapter=str(home / "adapter"), dtype="float32")
    assert load_target(spec).fingerprint == jobs[1].run.require(ValidateRecord).target


def test_two_ranks_adapt_as_one(home: Path, wide_target: Target, jobs: tuple[Job, Job]) -> None:
    """`tensor_parallel_size` 2: the target on two processes in every stage, the draft as well where vLLM drafts."""
    config = config_of(home, wide_target, "vllm")
    ranks = config.target.vllm.model_copy(update={"tensor_parallel_size": 2})
    config = config.model_copy(update={"target": config.target.model_copy(update={"vllm": ranks})})
    run = RunDir.of_job("adapt_two_ranks", home)
    run.create(config, origin="ray")
    run_pipeline(run, config)
    one, two = jobs[1].run, run
    assert two.require(SelfGenManifest).num_tokens == one.require(SelfGenManifest).num_tokens
    assert two.require(DraftCheckpoint).num_steps == one.require(DraftCheckpoint).num_steps
    ours, theirs = two.require(EvalReport), one.require(EvalReport)
    assert ours.lossless.num_different == 0
    for found, expected in zip(ours.acceptance, theirs.acceptance, strict=True):
        assert found.acceptance_length == pytest.approx(expected.acceptance_length, rel=0.05)


def test_a_draft_that_lost_too_little_is_told_with_the_same_numbers(
    home: Path, wide_target: Target, jobs: tuple[Job, Job]
) -> None:
    """One vLLM answers as the tuned target and, without the adapter, as its base."""
    said = []
    for engine in ("eda", "vllm"):
        config = config_of(home, wide_target, engine, min_gain=9.0)
        run = RunDir.of_job(f"adapt_worth_{engine}", home)
        run.create(config, origin="ray")
        run_stage(run, config, ADAPTING[0])
        with pytest.raises(NotWorthItError) as caught:
            run_stage(run, config, ADAPTING[1])
        said.append(caught.value.message)
    assert said[0] == said[1]


def killed_once(title: str, killed: list[str]) -> None:
    """SIGKILL the first Ray worker of that title, some seconds after it has begun."""
    while True:
        for process in psutil.process_iter(["cmdline", "create_time"]):
            if title in " ".join(process.info["cmdline"] or []) and time.time() - process.info["create_time"] > 0:
                time.sleep(4)  # vLLM is being loaded, or answers
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
                    killed.append(title)
                    return
        time.sleep(0.1)


def test_an_engine_that_is_killed_in_each_stage_costs_its_own_work_alone(
    home: Path, wide_target: Target, jobs: tuple[Job, Job]
) -> None:
    """kill -9 of the process that holds vLLM, where prompts are prepared, in a shard, and in both parts of evaluate.

    A pack of the same bytes, published before, is measured beside this job's and has the same numbers.
    """
    config = config_of(home, wide_target, "vllm")
    run = RunDir.of_job("adapt_killed", home)
    run.create(config, origin="ray")
    run.settle(Rivals(served="by-vllm@1", champion="nowhere@1"))
    killed: list[str] = []
    titles = ("ray::_prepare", "ray::MapWorker(MapBatches(ShardWriter))", "ray::_drafted", "ray::_plain")
    for title in titles:
        threading.Thread(target=killed_once, args=(title, killed), daemon=True).start()
    run_pipeline(run, config)
    assert sorted(killed) == sorted(titles)
    found, expected = run.require(DraftCheckpoint), jobs[1].run.require(DraftCheckpoint)
    assert [entry.sha256 for entry in found.files if entry.path.endswith("pack.safetensors")] == [
        entry.sha256 for entry in expected.files if entry.path.endswith("pack.safetensors")
    ]
    ours, theirs = run.require(EvalReport), jobs[1].run.require(EvalReport)
    assert [row.acceptance_length for row in ours.acceptance] == [row.acceptance_length for row in theirs.acceptance]
    served, missing = ours.rivals
    adapted_row = next(row for row in ours.acceptance if row.draft == ADAPTED)
    assert [row.acceptance_by_position for row in served.acceptance] == [adapted_row.acceptance_by_position]
    assert [row.mode for row in served.speed] == ["pack:by-vllm@1"]
    assert missing.acceptance == ()
    assert "nowhere" in str(missing.left_out)
    assert ours.fixed is not None
    assert ours.fixed.lengths["by-vllm@1"] == ours.fixed.lengths[ADAPTED]
