"""The generate stage with vLLM against the built-in engine, on Ray Data: same prompts, masks, shards and manifest.

In float32 at temperature 0 the answers are the same too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch

from eda_service.config.job import AdaptConfig, DatasetSpec, EvalConfig, SelectionConfig, SelfGenConfig
from eda_service.pipeline.generate import GENERATE
from eda_service.pipeline.stage import run_stage
from eda_service.raycluster.resources import connect
from eda_service.records import SelfGenManifest, Stage
from eda_service.storage.runs.run import RunDir
from eda_service.storage.samples.shards import Sample, read_shard
from eda_service.targets.loader import Target

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

WORDS = ("the", "user", "and", "other", "one", "assistant")


@pytest.fixture(scope="module", autouse=True)
def cluster(wide_home: Path) -> Iterator[None]:
    """A private Ray of this test."""
    os.environ["EDA_HOME"] = str(wide_home)
    connect()
    yield
    ray.shutdown()
    del os.environ["EDA_HOME"]


def generated(home: Path, target: Target, prompts: Path, engine: str) -> tuple[SelfGenManifest, list[Sample]]:
    config = AdaptConfig(
        target=target.spec,
        base_draft="tiny@1",
        dataset=DatasetSpec(source=str(prompts), num_prompts=24),
        selfgen=SelfGenConfig(
            engine=engine,
            temperature=0.0,
            max_new_tokens=16,
            max_prompt_tokens=300,
            shard_size=8,
            threads_per_actor=1,
            vllm_eager=True,
        ),
        selection=SelectionConfig(num_reference_prompts=8, reference_max_new_tokens=8, pca_dim=4),
        evaluation=EvalConfig(num_prompts=4),
    )
    run = RunDir(home / "runs" / f"adapt_{engine}")
    run.create(config, origin="ray")
    manifest = run_stage(run, config, GENERATE)
    directory = run.stage_dir(Stage.GENERATE)
    samples = [
        sample
        for path in sorted(directory.glob("*.tokens.safetensors"))
        for sample in read_shard(directory, path.name.removesuffix(".tokens.safetensors"))
    ]
    return manifest, samples


def test_the_self_generated_set_is_the_same(wide_home: Path, wide_target: Target, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    texts = [" ".join(WORDS[(i + j) % 6] for j in range(1 + i % 5)) for i in range(23)] + ["c" * 320]
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    own, own_samples = generated(wide_home, wide_target, prompts, "eda")
    made, samples = generated(wide_home, wide_target, prompts, "vllm")
    assert [(each.sample_id, each.num_prompt_tokens) for each in samples] == [
        (each.sample_id, each.num_prompt_tokens) for each in own_samples
    ]
    assert [each.token_ids for each in samples] == [each.token_ids for each in own_samples]
    for found, expected in zip(samples, own_samples, strict=True):
        assert found.features is not None
        assert expected.features is not None
        torch.testing.assert_close(found.features, expected.features, rtol=1e-2, atol=1e-2)
    assert (made.num_samples, made.num_tokens, made.skipped) == (own.num_samples, own.num_tokens, own.skipped)
    assert [each.shard for each in made.scores] == [each.shard for each in own.scores]
    assert [each.sample_value for each in made.scores] == pytest.approx(
        [each.sample_value for each in own.scores], rel=0.05
    )
    assert made.config["engine"] == "vllm"
