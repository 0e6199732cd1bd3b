"""The Ray Data actor of self-generation: one engine over the target, one shard per call, scored in the same pass.

A shard that has a result with matching files is not repeated: a re-run after a crash is cheap and exact.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eda_service.config.job import AdaptConfig, EngineKind
from eda_service.decoding.build import load_drafts, load_first_step
from eda_service.pipeline.prepare import REFERENCE_FILE
from eda_service.pipeline.target_engine import ends_with_engine, open_engine
from eda_service.records import FileEntry, SampleScore, Stage
from eda_service.selection.kinds import make_selector
from eda_service.selection.selector import DraftSelector, ReferenceSelector, Scorer
from eda_service.selfgen.generate import generate
from eda_service.selfgen.prompts import Prompt
from eda_service.storage.files import file_entry
from eda_service.storage.published.registry import find_draft
from eda_service.storage.runs.run import RunDir
from eda_service.storage.runs.state import ShardResult
from eda_service.storage.samples.shard_results import ShardResults
from eda_service.storage.samples.shards import Sample, write_shard
from eda_service.targets.ends import TargetEnds


@dataclass(frozen=True)
class WriterSettings:
    """The settings of an actor.

    Attributes:
        config: Config of the job.
        directory: Generate directory of the run, for the shards.
        kind: Engine that runs the target.
        reference: File of the fitted selector, which this machine must have; None where none is fitted.
        captures: Layers that the draft reads; empty: the inputs of the target's head. Distances always use the latter.
        start_from: Base draft whose start states are kept instead of the layers, because training leaves that part
            unchanged.
        scored_with: Base draft that the selector measures samples with. Without it and without a reference they stay
            unscored (pretraining data).
    """

    config: AdaptConfig
    directory: Path
    kind: EngineKind = EngineKind.EDA
    reference: tuple[FileEntry, ...] = ()
    captures: tuple[int, ...] = ()
    start_from: str | None = None
    scored_with: str | None = None


class ShardWriter:
    """Lets the target answer, scores the samples and writes shards."""

    def __init__(self, settings: WriterSettings) -> None:
        from eda_service.raycluster.resources import limit_threads

        self.settings, self.config = settings, settings.config
        limit_threads(self.config.selfgen.threads_per_actor)
        self.directory = settings.directory
        run = RunDir(self.directory.parent)
        run.store.fetch(Stage.GENERATE, settings.reference)
        self.results = ShardResults(run)
        self.engine = open_engine(self.config, settings.kind, captures=settings.captures)
        self.scorer = scorer_of(
            self.config,
            self.engine.ends,
            reference=self.directory / REFERENCE_FILE if settings.reference else None,
            base_dir=None if settings.scored_with is None else find_draft(settings.scored_with),
        )
        self.start = None
        if settings.start_from is not None:
            # The bound method keeps this draft alive, which has weights only for its start.
            self.start = load_first_step(find_draft(settings.start_from), target=self.engine.ends).start

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Map a Ray Data batch of shards {"shard", "prompts" (JSON)} to {"shard", "result" (JSON)}, without tensors."""
        found = []
        for name, prompts_json in zip(batch["shard"], batch["prompts"], strict=True):
            result = self.results.read(str(name))
            if result is None:
                prompts = [Prompt(**value) for value in json.loads(str(prompts_json))]
                with ends_with_engine(self.directory / f"{name}.losses"):
                    result = self._write(str(name), prompts)
            found.append(result.model_dump_json())
        return {"shard": batch["shard"], "result": np.array(found, dtype=object)}

    def _write(self, name: str, prompts: list[Prompt]) -> ShardResult:
        started = time.monotonic()
        generated = generate(
            self.engine,
            prompts,
            self.config.selfgen,
            seed=self.config.seed,
            captures=self.settings.captures,
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


def scorer_of(
    config: AdaptConfig, target: TargetEnds, *, reference: Path | None, base_dir: Path | None
) -> Scorer | None:
    """Return the scorer that measures a job's samples; None: they are not measured.

    Args:
        config: The job's config.
        target: Target that writes the samples.
        reference: File of the fitted selector.
        base_dir: The base draft.
    """
    selector = make_selector(config.selection)
    if isinstance(selector, ReferenceSelector) and reference is not None:
        return selector.load(reference)
    if isinstance(selector, DraftSelector) and base_dir is not None:
        return selector.beside(load_drafts(base_dir, None, target=target), target)
    return None


def score_samples(shard: str, samples: Sequence[Sample], scorer: Scorer | None) -> list[SampleScore]:
    """Compute sample values from states in memory; without a scorer every value is 0."""
    return [
        SampleScore(
            sample_id=sample.sample_id,
            shard=shard,
            row=row,
            num_answer_tokens=sample.num_answer_tokens,
            sample_value=0.0 if scorer is None else scorer.sample_value(sample),
        )
        for row, sample in enumerate(samples)
    ]
