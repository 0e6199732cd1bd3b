"""Stage train: a Ray Train worker group over the compact set; the best checkpoint becomes the pack."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ray import train as ray_train
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError
from torch import Tensor

from eda_service.config.job import AdaptConfig
from eda_service.draft_check import FULL_COVERAGE, GOOD_COVERAGE
from eda_service.drafts.checkpoint import read_draft_config, read_draft_vocab
from eda_service.drafts.coverage import Coverage, coverage
from eda_service.drafts.freezing import count_parameters
from eda_service.errors import ArtifactCorruptError, NonFiniteLossError, WorkerLostError
from eda_service.formatting import size
from eda_service.pipeline.bound_torch import BoundTorchConfig
from eda_service.pipeline.failures import own_error
from eda_service.pipeline.prepare import IO_FILE
from eda_service.pipeline.select import compact_shards, shard_files, shard_of, tokens_of
from eda_service.pipeline.stage import StageRunner
from eda_service.pipeline.stage_log import CurveLog
from eda_service.pipeline.train_worker import train_worker
from eda_service.planning.placement import placements
from eda_service.records import DraftCheckpoint, FileEntry, SelectionManifest, SelfGenManifest, Stage, TrainFields
from eda_service.storage.files import file_entry
from eda_service.storage.published.registry import find_draft, read_draft_manifest
from eda_service.storage.runs.curve import CURVE_FILE, Curve
from eda_service.storage.runs.run import RunDir
from eda_service.storage.runs.state import Diverged, Trained, TrainOutcome
from eda_service.training.best import fetch_best
from eda_service.training.inputs import TrainInputs, trained_form
from eda_service.training.vocabulary import extend_vocabulary, rank_vocabulary

logger = logging.getLogger(__name__)

_CHECKPOINTS = f"{Stage.TRAIN.value}/ray"


def run_train(run: RunDir, config: AdaptConfig, *, start_dir: Path | None = None) -> TrainFields:
    """Train and keep the best checkpoint as `train/pack`.

    Args:
        run: Run directory of the job.
        config: Config of the job.
        start_dir: Directory of the draft to start from; default: the job's base draft.

    Raises:
        WorkerLostError: Workers died more often than `train.max_worker_failures`.
        NonFiniteLossError: The loss became NaN or infinite.
        ArtifactCorruptError: An earlier record is missing, or a frozen tensor changed.
    """
    selected, generated = run.require(SelectionManifest), run.require(SelfGenManifest)
    start_dir = start_dir or find_draft(config.base_draft)
    covered = measured_coverage(run, config, generated.files, start_dir)
    inputs = inputs_of(run, config, generated.files, selected.files, start_dir, covered.missing)
    run.progress(Stage.TRAIN, step=0, total_steps=1)
    with CurveLog(run):
        outcome = fit(inputs)
    if outcome.frozen_before != outcome.frozen_after:
        raise ArtifactCorruptError(
            "a frozen tensor of the draft changed during training; report this with the run directory"
        )
    total, trainable = count_parameters(trained_form(inputs).draft)
    files = fetch_best(run)
    return TrainFields(
        inputs={entry.path: entry.sha256 for entry in shard_files(selected.files)}
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
        draft_vocab_coverage=covered.share,
    )


def inputs_of(
    run: RunDir,
    config: AdaptConfig,
    generated: Sequence[FileEntry],
    selected: Sequence[FileEntry],
    start_dir: Path,
    missing: Mapping[int, int],
) -> TrainInputs:
    """Collect the inputs of a worker group.

    Args:
        run: Run directory of the job.
        config: Config of the job.
        generated: Files of the generate stage.
        selected: Files of the select stage, the samples to train on.
        start_dir: Directory of the draft to start from.
        missing: Number of occurrences of each token that the draft's own vocabulary lacks.
    """
    generate_dir, data_dir, out_dir = (run.stage_dir(each) for each in (Stage.GENERATE, Stage.SELECT, Stage.TRAIN))
    run.store.fetch(Stage.SELECT, tokens_of(selected))
    vocabulary = _vocabulary(run, config, generated, start_dir, missing)
    own = [path for path in (vocabulary, *_own_start(run, start_dir)) if path is not None]
    made = [file_entry(out_dir, path) for path in own]
    run.store.upload(Stage.TRAIN, made)
    settled = read_draft_config(start_dir).settled(config.train)
    return TrainInputs(
        config=config.model_copy(update={"train": settled}),
        run_root=run.root,
        data_dir=data_dir,
        shards=tuple(compact_shards(data_dir, selected)),
        io_path=generate_dir / IO_FILE,
        start_dir=start_dir,
        vocab_path=vocabulary,
        files={
            Stage.GENERATE: tuple(entry for entry in generated if entry.path == IO_FILE),
            Stage.SELECT: tuple(shard_files(selected)),
            Stage.TRAIN: tuple(made),
        },
    )


def _own_start(run: RunDir, start_dir: Path) -> list[Path]:
    """List the files of an unregistered draft to start from, which is in the run directory."""
    return sorted(start_dir.iterdir()) if start_dir.is_relative_to(run.root) else []


def _vocabulary(
    run: RunDir, config: AdaptConfig, generated: Sequence[FileEntry], start_dir: Path, missing: Mapping[int, int]
) -> Path | None:
    """Write the draft vocabulary to a file, if it differs from the base draft's own."""
    from safetensors.torch import save_file

    shape, train = read_draft_config(start_dir), config.train
    own_W = read_draft_vocab(start_dir)
    if shape.own_vocab_size is None:
        vocab_W = ranked_vocabulary(run, config, generated, shape.vocab_size)
    elif own_W is None or not train.extend_draft_vocab:
        return None
    else:
        vocab_W = extend_vocabulary(own_W, missing, train.extend_draft_vocab, shape.vocab_size)
    if vocab_W is None:
        return None
    path = run.stage_dir(Stage.TRAIN) / "vocabulary.safetensors"
    save_file({"draft_vocab": vocab_W}, path)
    return path


def measured_coverage(run: RunDir, config: AdaptConfig, generated: Sequence[FileEntry], start_dir: Path) -> Coverage:
    """Measure the coverage of the target's answers by the base draft's own vocabulary, and log it if it is low."""
    own_W = read_draft_vocab(start_dir)
    if own_W is None or read_draft_config(start_dir).own_vocab_size is None:
        return coverage(None, ())
    covered = coverage(own_W, answers_of(run, generated))
    said = f"the draft's vocabulary of {len(own_W)} tokens covers {covered.share:.1%} of what the target writes"
    if covered.share >= FULL_COVERAGE:
        run.event("draft_vocab_coverage", said, stage=Stage.TRAIN)
    elif config.train.extend_draft_vocab:
        said += f"; train.extend_draft_vocab adds {config.train.extend_draft_vocab} tokens"
        run.event("draft_vocab_coverage", said, stage=Stage.TRAIN)
    else:
        enough, good = covered.rows_for(FULL_COVERAGE), covered.rows_for(GOOD_COVERAGE)
        said += (
            f", and each of the others ends a round; train.extend_draft_vocab={enough} would cover "
            f"{FULL_COVERAGE:.0%}, {good} {GOOD_COVERAGE:.0%}"
        )
        run.event("draft_vocab_coverage", said, stage=Stage.TRAIN, level="warning")
    return covered


def answers_of(run: RunDir, generated: Sequence[FileEntry]) -> Iterator[list[int]]:
    """Yield token ids of the self-generated answers (tokens stay after selection)."""
    from eda_service.storage.samples.shards import read_shard

    entries, directory = tokens_of(generated), run.stage_dir(Stage.GENERATE)
    run.store.fetch(Stage.GENERATE, entries)
    for name in sorted(map(shard_of, entries)):
        for sample in read_shard(directory, name, features=False):
            yield sample.token_ids[sample.num_prompt_tokens :]


def ranked_vocabulary(
    run: RunDir, config: AdaptConfig, generated: Sequence[FileEntry], vocab_size: int
) -> Tensor | None:
    """Rank the draft vocabulary over the self-generated set; None for all tokens."""
    return rank_vocabulary(answers_of(run, generated), config.train.draft_vocab_size, vocab_size)


def fit(inputs: TrainInputs) -> Trained:
    """Run the worker group; Ray Train restarts it from the last checkpoint when a worker dies."""
    run, config = inputs.run, inputs.config
    placed = placements(config)[Stage.TRAIN]
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"inputs": inputs},
        torch_config=BoundTorchConfig(backend="nccl" if config.train.use_gpu else "gloo"),
        scaling_config=ray_train.ScalingConfig(
            num_workers=placed.workers,
            use_gpu=config.train.use_gpu,
            placement_strategy=placed.strategy.name,
            resources_per_worker={"CPU": placed.cpus, **({"GPU": placed.gpus} if placed.gpus else {})},
        ),
        run_config=ray_train.RunConfig(
            name=run.job_id,
            storage_path=run.store.objects.address(_CHECKPOINTS),
            failure_config=ray_train.FailureConfig(
                max_failures=config.train.max_worker_failures, controller_failure_limit=2
            ),
            checkpoint_config=ray_train.CheckpointConfig(num_to_keep=2),
        ),
    )
    run.remove(TrainOutcome.FILE)
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise own_error(error) from error
    outcome = run.read(TrainOutcome)
    if outcome is None:
        raise WorkerLostError("training ended without an outcome; see the train log of this job")
    if isinstance(outcome.root, Diverged):
        raise NonFiniteLossError(outcome.root.failure)
    return outcome.root


def _free_checkpoints(run: RunDir) -> None:
    """Delete the checkpoints of interrupted training: the best weights are in `train/pack`."""
    freed = run.store.forget_folder(_CHECKPOINTS)
    if freed:
        run.event("checkpoints_deleted", f"{size(freed)} of checkpoints freed", stage=Stage.TRAIN)


TRAIN = StageRunner(DraftCheckpoint, part=lambda config: config.train, run=run_train, afterwards=_free_checkpoints)
