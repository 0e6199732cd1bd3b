"""The Ray Data actor that self-generates: one copy of the target, one shard a call, scored in the same pass.

A shard that has a result with matching files is left as it is: that makes a re-run after a crash cheap and exact.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eda_service.config.job import AdaptConfig, EngineKind
from eda_service.decoding.build import load_first_step
from eda_service.export.cache import whole_target
from eda_service.export.vllm_environment import prepare_cpu, require_vllm
from eda_service.records import FileEntry, SampleScore, Stage
from eda_service.selection.kinds import make_selector
from eda_service.selection.selector import Scorer
from eda_service.selfgen.generate import generate
from eda_service.selfgen.prompts import Prompt
from eda_service.selfgen.vllm_writer import IN_PROCESS, VllmWriter, Writer
from eda_service.storage.files import file_entry
from eda_service.storage.registry import find_draft
from eda_service.storage.run import RunDir
from eda_service.storage.shard_results import ShardResults
from eda_service.storage.shards import Sample, write_shard
from eda_service.storage.state import ShardResult
from eda_service.targets.loader import Target


class ShardWriter:
    """Generates, scores and writes shards; the answers are the project's engine's or vLLM's.

    Args:
        config: The job's config.
        directory: Where shards go: the run's generate directory.
        reference_path: What the selector was fitted to, or None to leave samples unscored (pretraining data).
        inputs: Files of the stage that this machine has to have.
        captures: Layers that the draft reads; none: what the target's head reads. Scores are of the latter always.
        start_from: Base draft whose first step is kept instead of the layers, because training leaves it as it is.
    """

    def __init__(
        self,
        config: AdaptConfig,
        directory: Path,
        reference_path: Path | None,
        inputs: Sequence[FileEntry] = (),
        captures: Sequence[int] = (),
        start_from: str | None = None,
    ) -> None:
        from eda_service.raycluster.resources import limit_threads
        from eda_service.targets.device import choose_device
        from eda_service.targets.loader import load_target

        self.config, self.captures = config, captures
        limit_threads(self.config.selfgen.threads_per_actor)
        self.directory = directory
        run = RunDir(self.directory.parent)
        run.store.fetch(Stage.GENERATE, inputs)
        self.results = ShardResults(run)
        self.scorer = None if reference_path is None else make_selector(config.selection).load(reference_path)
        self.target = load_target(self.config.target, device=choose_device(self.config.device))
        self.start = None
        if start_from is not None:
            # A bound method keeps its draft, and this one has weights for nothing else.
            self.start = load_first_step(find_draft(start_from), target=self.target).start
        self.writer = vllm_writer(self.config, self.target) if self.config.selfgen.engine is EngineKind.VLLM else None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Ray Data batch of shards {"shard", "prompts" (JSON)} to {"shard", "result" (JSON)}: no tensors."""
        found = []
        for name, prompts_json in zip(batch["shard"], batch["prompts"], strict=True):
            result = self.results.read(str(name))
            if result is None:
                prompts = [Prompt(**value) for value in json.loads(str(prompts_json))]
                result = self._write(str(name), prompts)
            found.append(result.model_dump_json())
        return {"shard": batch["shard"], "result": np.array(found, dtype=object)}

    def _write(self, name: str, prompts: list[Prompt]) -> ShardResult:
        started = time.monotonic()
        generated = generate(
            self.target,
            prompts,
            self.config.selfgen,
            seed=self.config.seed,
            writer=self.writer,
            captures=self.captures,
            start=self.start,
        )
        generation_seconds = time.monotonic() - started
        started = time.monotonic()
        scores = score_samples(name, generated.samples, self.scorer)
        scoring_seconds = time.monotonic() - started
        entries: list[FileEntry] = []
        if generated.samples:
            tokens, features = write_shard(self.directory, name, generated.samples)
            entries = [file_entry(self.directory, tokens), file_entry(self.directory, features, transient=True)]
        result = ShardResult(
            num_samples=len(generated.samples),
            num_tokens=sum(len(sample.token_ids) for sample in generated.samples),
            skipped=tuple(generated.skipped),
            scores=tuple(scores),
            files=tuple(entries),
            generation_seconds=generation_seconds,
            scoring_seconds=scoring_seconds,
        )
        return self.results.write(name, result)


def vllm_writer(config: AdaptConfig, target: Target) -> Writer:
    """vLLM over the same target, in this process.

    Raises:
        EngineMissingError: vLLM is not installed here.
    """
    require_vllm("where Ray's workers run", param="selfgen.engine")
    settings, on_gpu = config.selfgen, target.device.type == "cuda"
    if not on_gpu:
        prepare_cpu(kv_cache_gib=settings.vllm_cache_gib, threads=settings.threads_per_actor)
    os.environ.update([IN_PROCESS])
    return VllmWriter(
        whole_target(config.target).directory,
        dtype=str(target.dtype).removeprefix("torch."),
        stop_token_ids=target.stop_token_ids,
        vocab_size=target.vocab_size,
        max_tokens=min(settings.max_prompt_tokens + settings.max_new_tokens, target.max_context),
        batch_size=settings.batch_size,
        eager=settings.vllm_eager,
        seed=config.seed,
        gpu_memory_fraction=settings.vllm_gpu_fraction if on_gpu else None,
    )


def score_samples(shard: str, samples: Sequence[Sample], scorer: Scorer | None) -> list[SampleScore]:
    """Eqs. 13-14 on states that are in memory anyway; without a scorer every value is 0."""
    scores = []
    for row, sample in enumerate(samples):
        value = 0.0
        if scorer is not None:
            value = scorer.sample_value(np.asarray(sample.answer_states().to(torch.float64).cpu().numpy()))
        scores.append(
            SampleScore(
                sample_id=sample.sample_id,
                shard=shard,
                row=row,
                num_answer_tokens=sample.num_answer_tokens,
                sample_value=value,
            )
        )
    return scores
