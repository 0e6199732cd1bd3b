"""Pretrain a base draft on text its target wrote itself, and register it.

prompts + answers by the base target -> all samples -> a fresh draft, everything trains ->
`name@version` in the registry
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from eda_service.config.job import AdaptConfig, Method, Selector
from eda_service.drafts.checkpoint import load_pack, save_base_draft
from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import DraftConfig
from eda_service.drafts.draft_shape import draft_shape
from eda_service.errors import ConflictError, InputError
from eda_service.pipeline.generate import run_generate
from eda_service.pipeline.select import forget_unselected, run_select
from eda_service.pipeline.train import run_train
from eda_service.pipeline.validate import fingerprint_target
from eda_service.records import DraftCheckpoint, DraftManifest, SelectionManifest, SelfGenManifest, Stage
from eda_service.storage.files import file_entry, write_json
from eda_service.storage.provenance import library_versions
from eda_service.storage.registry import has_draft, publish_draft, read_draft_manifest, stage_draft
from eda_service.storage.run import RunDir
from eda_service.targets.checks.check import check_target, load_config
from eda_service.targets.resolve import resolve_target


def draft_config_of(config: AdaptConfig) -> DraftConfig:
    """The shape of a draft for a target: one decoder layer of its family.

    Raises:
        TargetNotFoundError, TargetIncompatibleError, UnsafeCheckpointError: The target cannot be loaded, prompted or
            driven, or does not name a size that a draft needs.
    """
    resolved = resolve_target(config.target)
    check_target(resolved)
    return draft_shape(load_config(resolved.model_dir))


def pretrain(run: RunDir, config: AdaptConfig, reference: str) -> Path:
    """Generate, train and register a base draft; returns its directory.

    Raises:
        InputError: The config is not one for pretraining, the reference is not name@version, or the target cannot be
            used; a subclass says which field is at fault.
        ConflictError: That version exists.
    """
    name, at, version = reference.partition("@")
    if not at or not version.isdigit():
        raise InputError(f"--pretrain {reference!r} is no name@version; write smollm2-135m@2", param="pretrain")
    if config.train.method is not Method.RETRAIN or config.selection.method is not Selector.ALL:
        raise InputError("pretraining needs train.method=retrain and selection.method=all", param="train.method")
    if has_draft(name, int(version)):
        raise ConflictError(f"{reference} is registered already; choose the next version", param="pretrain")
    shape = draft_config_of(config)  # before hours of generation
    generated = run.read_record(SelfGenManifest, Stage.GENERATE)
    if generated is None:
        generated = run_generate(run, config)
        generated = run.write_record(generated)
    if run.read_record(SelectionManifest, Stage.SELECT) is None:
        run.write_record(run_select(run, config))
        forget_unselected(run)
    start_dir = _fresh_draft(run, config.seed, shape)
    trained = run.read_record(DraftCheckpoint, Stage.TRAIN)
    if trained is None:
        trained = run_train(run, config, start_dir=start_dir)
        run.write_record(trained)
    return _register(run, config, start_dir, (name, int(version)), generated, trained)


def _fresh_draft(run: RunDir, seed: int, shape: DraftConfig) -> Path:
    """A random draft of the right shape, as the directory training starts from."""
    directory = run.stage_dir(Stage.TRAIN) / "start"
    if not (directory / "draft.safetensors").exists():
        directory.mkdir(exist_ok=True)
        torch.manual_seed(seed)
        save_base_draft(directory, Draft(shape), None)
    return directory


def _register(
    run: RunDir,
    config: AdaptConfig,
    start_dir: Path,
    draft: tuple[str, int],
    generated: SelfGenManifest,
    trained: DraftCheckpoint,
) -> Path:
    """Publish the best weights as a base draft with its provenance."""
    fingerprint = fingerprint_target(config)
    run.store.fetch(Stage.TRAIN, trained.files)
    loaded = load_pack(start_dir, run.stage_dir(Stage.TRAIN) / "pack", dtype=torch.float32)
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
    )
    write_json(staging / "manifest.json", manifest.model_dump(mode="json"))
    directory = publish_draft(staging, name, version)
    read_draft_manifest(directory)
    return directory
