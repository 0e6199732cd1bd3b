"""Stage train: a Ray Train worker group with DeepSpeed over the compact set; the best checkpoint becomes the pack."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from ray import train as ray_train
from ray.exceptions import OutOfMemoryError as RayOutOfMemoryError
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from eda_service.config.job import AdaptConfig
from eda_service.drafts.checkpoint import read_draft_config
from eda_service.drafts.freezing import count_parameters
from eda_service.errors import (
    ArtifactCorruptError,
    EdaError,
    InsufficientStorageError,
    NonFiniteLossError,
    OutOfMemoryError,
    WorkerLostError,
)
from eda_service.pipeline.bound_torch import BoundTorchConfig
from eda_service.pipeline.prepare import IO_FILE
from eda_service.pipeline.select import compact_shards, shard_of
from eda_service.pipeline.train_inputs import Payload, build_draft
from eda_service.pipeline.train_worker import train_worker
from eda_service.planning.placement import placements
from eda_service.records import DraftCheckpoint, FileEntry, SelectionManifest, SelfGenManifest, Stage
from eda_service.storage.curve import CURVE_FILE, Curve
from eda_service.storage.files import file_entry, is_disk_full
from eda_service.storage.provenance import library_versions
from eda_service.storage.registry import find_draft, read_draft_manifest
from eda_service.storage.run import RunDir
from eda_service.storage.state import Best, Diverged, Early, Outcome, Trained
from eda_service.training.vocabulary import rank_vocabulary

logger = logging.getLogger(__name__)

EARLY_FOLDER = "early"
"""Of its samples, in the stage's directory."""


def run_train(run: RunDir, config: AdaptConfig, *, start_dir: Path | None = None) -> DraftCheckpoint:
    """Train and keep the best checkpoint as `train/pack`.

    Args:
        run: The job.
        config: The job's config.
        start_dir: Draft to start from; default: the job's base draft.

    Raises:
        WorkerLostError: Workers died more often than `train.max_worker_failures`.
        NonFiniteLossError: The loss left the numbers.
        ArtifactCorruptError: An earlier record is missing, or a frozen tensor changed.
    """
    started = time.monotonic()
    selected = run.read_record(SelectionManifest, Stage.SELECT)
    generated = run.read_record(SelfGenManifest, Stage.GENERATE)
    if selected is None or generated is None:
        raise ArtifactCorruptError(f"{run.root} lacks the select record; run the stages before train first")
    start_dir = start_dir or find_draft(config.base_draft)
    out_dir = run.stage_dir(Stage.TRAIN)
    early = run.read(Early)
    names = vocabulary_shards(early, generated.files)
    payload = payload_of(run, config, generated.files, names, (Stage.SELECT, "", selected.files), start_dir)
    if early is not None:
        payload = after_early(run, payload, early)
    run.progress(Stage.TRAIN, step=0, total_steps=1)
    outcome = fit(run, config, payload)
    if outcome.frozen_before != outcome.frozen_after:
        raise ArtifactCorruptError(
            "a frozen tensor of the draft changed during training; report this with the run directory"
        )
    draft, _ = build_draft(payload, config.train, config.seed)
    total, trainable = count_parameters(draft)
    files = _fetch_best(run, out_dir)
    return DraftCheckpoint(
        stage=Stage.TRAIN,
        created_at=int(time.time()),
        seconds=time.monotonic() - started,
        config=config.train.model_dump(mode="json"),
        seed=config.seed,
        library_versions=library_versions(),
        inputs={entry.path: entry.sha256 for entry in selected.files}
        | {
            "base_draft": read_draft_manifest(start_dir).files[0].sha256
            if (start_dir / "manifest.json").exists()
            else ""
        },
        files=files,
        num_steps=outcome.step,
        best_step=outcome.best_step,
        num_parameters=total,
        num_trainable=trainable,
        trainable_fraction=trainable / total,
        frozen_sha256=outcome.frozen_after,
        initial_simulated_acceptance_length=outcome.initial_acceptance,
        best_simulated_acceptance_length=outcome.best_acceptance,
        curve=tuple(Curve(run.store.shared(CURVE_FILE).parent).read()),
        num_worker_restarts=outcome.restarts,
        training_seconds=outcome.seconds,
    )


def _fetch_best(run: RunDir, out_dir: Path) -> tuple[FileEntry, ...]:
    """The best weights, on this machine too."""
    best = run.read(Best)
    if best is None:
        return tuple(file_entry(out_dir, path) for path in sorted((out_dir / "pack").iterdir()))
    run.store.fetch(Stage.TRAIN, best.files)
    return best.files


def tokens_of(files: Iterable[FileEntry]) -> list[FileEntry]:
    """Those that hold samples without their hidden states."""
    return [entry for entry in files if entry.path.endswith(".tokens.safetensors")]


def vocabulary_shards(early: Early | None, generated: Iterable[FileEntry]) -> list[str]:
    """Whose answers the draft vocabulary is ranked over: it has to stand when the first group starts."""
    return [shard_of(entry) for entry in tokens_of(generated)] if early is None else list(early.generated)


def payload_of(
    run: RunDir,
    config: AdaptConfig,
    generated: Sequence[FileEntry],
    ranked: Sequence[str],
    compact: tuple[Stage, str, Sequence[FileEntry]],
    start_dir: Path,
) -> Payload:
    """What a worker group needs.

    Args:
        run: The job.
        config: The job's config.
        generated: Files of the generate stage.
        ranked: Its shards whose answers the draft vocabulary is ranked over.
        compact: Samples to train on: stage, folder in its directory, files.
        start_dir: Draft to start from.
    """
    stage, folder, files = compact
    generate_dir, out_dir = run.stage_dir(Stage.GENERATE), run.stage_dir(Stage.TRAIN)
    data_dir = run.stage_dir(stage) / folder
    run.store.fetch(Stage.GENERATE, tokens_of(generated))
    run.store.fetch(stage, tokens_of(files))
    vocabulary = _vocabulary(run, config, ranked, start_dir, out_dir)
    own = [path for path in (vocabulary, *_own_start(run, start_dir)) if path is not None]
    made = [file_entry(out_dir, path) for path in own]
    run.store.upload(Stage.TRAIN, made)
    inputs = {Stage.GENERATE: [entry for entry in generated if entry.path == IO_FILE], Stage.TRAIN: made}
    inputs[stage] = [*inputs.get(stage, ()), *files]
    return Payload(
        run_root=str(run.root),
        out_dir=str(out_dir),
        data_dir=str(data_dir),
        shards=compact_shards(data_dir, files),
        io_path=str(generate_dir / IO_FILE),
        start_dir=str(start_dir),
        vocab_path=None if vocabulary is None else str(vocabulary),
        inputs={stage.value: [entry.model_dump() for entry in entries] for stage, entries in inputs.items()},
    )


def after_early(run: RunDir, payload: Payload, early: Early) -> Payload:
    """The same for a group that goes on from early training: it holds out none of the prompts seen there."""
    run.store.fetch(Stage.TRAIN, early.files)
    added = [entry.model_dump() for entry in early.files]
    inputs = payload.inputs | {Stage.TRAIN.value: [*payload.inputs.get(Stage.TRAIN.value, []), *added]}
    directory = run.stage_dir(Stage.TRAIN) / EARLY_FOLDER
    return replace(
        payload,
        inputs=inputs,
        early_dir=str(directory),
        early_shards=compact_shards(directory, early.files),
        early_steps=early.num_steps,
    )


def _own_start(run: RunDir, start_dir: Path) -> list[Path]:
    """Files of a draft to start from that is no registered one: it lies in the run directory."""
    return sorted(start_dir.iterdir()) if start_dir.is_relative_to(run.root) else []


def _vocabulary(run: RunDir, config: AdaptConfig, names: Sequence[str], start_dir: Path, out_dir: Path) -> Path | None:
    """Rank the draft vocabulary over these shards of the self-generated set (tokens stay after selection)."""
    from safetensors.torch import save_file

    from eda_service.storage.shards import read_shard

    directory = run.stage_dir(Stage.GENERATE)
    answers = (
        sample.token_ids[sample.num_prompt_tokens :]
        for name in sorted(names)
        for sample in read_shard(directory, name, features=False)
    )
    vocab_W = rank_vocabulary(answers, config.train.draft_vocab_size, read_draft_config(start_dir).vocab_size)
    if vocab_W is None:
        return None
    path = out_dir / "vocabulary.safetensors"
    save_file({"draft_vocab": vocab_W}, path)
    return path


def fit(run: RunDir, config: AdaptConfig, payload: Payload) -> Trained:
    """Run the worker group; Ray Train restarts it from the last checkpoint when a worker dies."""
    placed = placements(config)[Stage.TRAIN]
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"config": config.model_dump(mode="json"), "payload": vars(payload)},
        torch_config=BoundTorchConfig(backend="nccl" if config.train.use_gpu else "gloo"),
        scaling_config=ray_train.ScalingConfig(
            num_workers=placed.workers,
            use_gpu=config.train.use_gpu,
            placement_strategy=placed.strategy.name,
            resources_per_worker={"CPU": placed.cpus, **({"GPU": placed.gpus} if placed.gpus else {})},
        ),
        run_config=ray_train.RunConfig(
            name=run.job_id,
            storage_path=run.store.objects.address(f"{Stage.TRAIN.value}/ray"),
            failure_config=ray_train.FailureConfig(
                max_failures=config.train.max_worker_failures, controller_failure_limit=2
            ),
            checkpoint_config=ray_train.CheckpointConfig(num_to_keep=2),
        ),
    )
    run.remove(Outcome.FILE)
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise _as_own_error(error) from error
    outcome = run.read(Outcome)
    if outcome is None:
        raise WorkerLostError("training ended without an outcome; see the train log of this job")
    if isinstance(outcome.root, Diverged):
        raise NonFiniteLossError(outcome.root.failure)
    return outcome.root


def _as_own_error(error: BaseException) -> EdaError:
    """The first error of our tree behind a worker group's failure, else a lost worker."""
    failures = getattr(error, "worker_failures", None) or {}
    if any(map(is_disk_full, [error, *failures.values()])):
        return InsufficientStorageError(
            "the disk of the run directory became full in training; free space there and retry the job"
        )
    for failure in failures.values():
        cause: BaseException | None = failure
        while cause is not None:
            inner = getattr(cause, "cause", None)
            for candidate in (cause, inner):
                if isinstance(candidate, EdaError):
                    return candidate
                if isinstance(candidate, RayOutOfMemoryError | MemoryError | torch.OutOfMemoryError):
                    return OutOfMemoryError(
                        "a train worker ran out of memory; lower train.batch_size, train.max_tokens or "
                        "train.draft_vocab_size, or stop what else runs on the machine"
                    )
            cause = cause.__cause__
    return WorkerLostError(f"training did not finish: {str(error).strip().splitlines()[-1][:400]}")
