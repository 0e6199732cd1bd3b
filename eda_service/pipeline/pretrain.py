"""Pretraining of a base draft on text that its target wrote, and its registration.

prompts + answers by the base target -> all samples -> a fresh draft, everything trains ->
`name@version` in the registry
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from eda_service.config.job import AdaptConfig, EngineKind, Method
from eda_service.drafts.checkpoint import load_pack, save_base_draft
from eda_service.drafts.draft_config import DraftConfig
from eda_service.drafts.draft_shape import draft_shape
from eda_service.drafts.kinds import make_draft
from eda_service.errors import ConflictError, InputError
from eda_service.pipeline.generate import GENERATE, run_generate
from eda_service.pipeline.prepare import IO_FILE
from eda_service.pipeline.select import SELECT
from eda_service.pipeline.stage import StageRunner, run_stage
from eda_service.pipeline.target_engine import engine_of
from eda_service.pipeline.train import TRAIN, ranked_vocabulary, run_train
from eda_service.pipeline.validate import fingerprint_target
from eda_service.planning.estimate import disk_need_bytes
from eda_service.records import DraftCheckpoint, DraftManifest, SelfGenManifest, Stage
from eda_service.references import Reference
from eda_service.selection.kinds import make_selector
from eda_service.storage.files import file_entry, require_free_bytes, write_json
from eda_service.storage.published.registry import (
    draft_job_id,
    has_draft,
    publish_draft,
    read_draft_manifest,
    stage_draft,
)
from eda_service.storage.runs.provenance import library_versions
from eda_service.storage.runs.run import RunDir
from eda_service.targets.checks.check import check_target, load_config
from eda_service.targets.ends_file import load_io
from eda_service.targets.files.resolve import resolve_target


def draft_config_of(config: AdaptConfig) -> DraftConfig:
    """Make the config of a draft for a target: one decoder layer of its family.

    Raises:
        TargetNotFoundError, TargetIncompatibleError, UnsafeCheckpointError: The target cannot be loaded, prompted or
            run, or does not name a size that a draft needs.
    """
    resolved = resolve_target(config.target)
    check_target(resolved, engine=config.target.engine or EngineKind.EDA)
    return draft_shape(load_config(resolved.model_dir), config.draft, config.train.draft_vocab_size)


def pretrain(run: RunDir, config: AdaptConfig, reference: str) -> Path:
    """Generate, train and register a base draft; return its directory.

    Raises:
        InputError: The config is not one for pretraining, the reference is not name@version, or the target cannot be
            used; a subclass names the field.
        ConflictError: The version exists already.
        InsufficientStorageError: The free disk space is less than twice the hidden states of all samples.
    """
    draft = Reference.parse(reference)
    if draft is None or draft.number is None:
        raise InputError(f"--pretrain {reference!r} is no name@version; write smollm2-135m@2", param="pretrain")
    if config.train.method is not Method.RETRAIN or make_selector(config.selection).needs_scores:
        raise InputError("pretraining needs train.method=retrain and selection.method=all", param="train.method")
    if has_draft(draft.name, draft.number) or draft_job_id(draft.name, draft.number) is not None:
        raise ConflictError(f"{reference} is registered already, or was; choose the next version", param="pretrain")
    if config.train.extend_draft_vocab or config.min_gain is not None:
        raise InputError(
            "train.extend_draft_vocab and min_gain are for adaptations of a base draft; leave them out of pretraining",
            param="train.extend_draft_vocab" if config.train.extend_draft_vocab else "min_gain",
        )
    shape = draft_config_of(config)  # checked before hours of generation
    if not run.has_record(Stage.GENERATE):
        need = disk_need_bytes(config, shape)
        require_free_bytes(run.root, need, param="dataset.num_prompts")
    for runner in pretraining(shape):
        run_stage(run, config, runner)
    return _register(run, config, shape, (draft.name, draft.number))


def pretraining(shape: DraftConfig) -> tuple[StageRunner[Any], ...]:
    """Return the stages of pretraining: those of an adaptation, but with a fresh draft that is not registered yet."""
    generate = replace(GENERATE, run=lambda run, config: run_generate(run, config, shape))
    fresh = replace(TRAIN, run=lambda run, config: run_train(run, config, start_dir=_fresh_draft(run, config, shape)))
    return generate, SELECT, fresh


def _fresh_draft(run: RunDir, config: AdaptConfig, shape: DraftConfig) -> Path:
    """Make a random draft of the right shape in the directory that training starts from, unless it exists.

    A head of the draft's own begins as the target's rows of its most frequent tokens.
    """
    directory = run.stage_dir(Stage.TRAIN) / "start"
    if (directory / "draft.safetensors").exists():
        return directory
    directory.mkdir(exist_ok=True)
    torch.manual_seed(config.seed)
    draft, vocab_W = make_draft(shape), None
    if draft.places.head:
        generated = run.require(SelfGenManifest).files
        vocab_W = ranked_vocabulary(run, config, generated, shape.vocab_size)
        run.store.fetch(Stage.GENERATE, [entry for entry in generated if entry.path == IO_FILE])
        io_path = run.stage_dir(Stage.GENERATE) / IO_FILE
        _, lm_head = load_io(io_path, dtype=torch.float32, device=torch.device("cpu"))
        draft.begin_as(lm_head.take(vocab_W))
    save_base_draft(directory, draft, vocab_W)
    return directory


def _register(run: RunDir, config: AdaptConfig, shape: DraftConfig, draft: tuple[str, int]) -> Path:
    """Publish the best weights as a base draft with its provenance."""
    generated, trained = run.require(SelfGenManifest), run.require(DraftCheckpoint)
    fingerprint = fingerprint_target(config.target, engine_of(run, config))
    run.store.fetch(Stage.TRAIN, trained.files)
    loaded = load_pack(_fresh_draft(run, config, shape), run.stage_dir(Stage.TRAIN) / "pack", dtype=torch.float32)
    name, version = draft
    staging = stage_draft(name, version)
    save_base_draft(staging, loaded.draft, loaded.vocab_W)
    manifest = DraftManifest(
        name=name,
        version=version,
        created_at=int(time.time()),
        hidden_size=fingerprint.hidden_size,
        vocab_size=fingerprint.vocab_size,
        tokenizer_sha256=fingerprint.tokenizer_sha256,
        files=tuple(file_entry(staging, path) for path in sorted(staging.iterdir())),
        trained_on=f"{fingerprint.model} (weights {fingerprint.weights_sha256}), prompts and answers its own",
        num_train_tokens=generated.num_tokens,
        config=config.model_dump(mode="json"),
        library_versions=library_versions(),
        metrics={
            "simulated_acceptance_length": trained.best_simulated_acceptance_length,
            "num_answer_tokens": float(generated.num_answer_tokens),
            "train_seconds": trained.seconds,
            "generation_seconds": generated.generation_seconds,
        },
        kind=shape.kind,
    )
    write_json(staging / "manifest.json", manifest.model_dump(mode="json"))
    directory = publish_draft(staging, name, version)
    read_draft_manifest(directory)
    return directory
