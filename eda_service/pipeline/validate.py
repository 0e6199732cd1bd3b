"""Stage validate: target and base draft fit, prompts can be read, the disk is large enough. No weights are loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass

import ray

from eda_service.config.job import AdaptConfig, DatasetSpec, EngineKind, TargetSpec
from eda_service.drafts.checkpoint import read_draft_config
from eda_service.drafts.compatibility import check_extension, check_reads
from eda_service.engines.vllm_environment import require_vllm
from eda_service.formatting import duration, size
from eda_service.pipeline.measuring import require_own_target
from eda_service.pipeline.stage import StageRunner
from eda_service.pipeline.target_engine import chosen_engine, memory_bytes
from eda_service.planning.dry_run import expected_ranges
from eda_service.planning.engine_need import check_room, check_split
from eda_service.planning.estimate import disk_need_bytes
from eda_service.planning.placement import MODEL_CPUS, placements
from eda_service.raycluster.resources import limit_threads, require_gpus
from eda_service.records import Stage, StageTime, TargetFingerprint, ValidateFields, ValidateRecord
from eda_service.references import Reference
from eda_service.selfgen.prompts import load_prompts
from eda_service.selfgen.skipped_rows import SkippedRows
from eda_service.storage.files import file_entry, require_free_bytes, sha256_text
from eda_service.storage.published.compatibility import check_draft_fits
from eda_service.storage.published.registry import find_draft, read_draft_manifest
from eda_service.storage.runs.run import RunDir
from eda_service.targets.chat.chat import target_tokenizer
from eda_service.targets.checks.check import check_target, load_config
from eda_service.targets.device import choose_device
from eda_service.targets.files.generation_defaults import read_generation_defaults, require_vllm_computes
from eda_service.targets.files.identity import fingerprint
from eda_service.targets.files.resolve import resolve_target
from eda_service.targets.files.shape import ModelShape, shape_of_target
from eda_service.training.tracking import check_installed


def run_validate(run: RunDir, config: AdaptConfig) -> ValidateFields:
    """Check a job before it uses resources.

    Raises:
        EngineMissingError: The job needs vLLM, which is not installed.
        TargetNotFoundError, TargetIncompatibleError, UnsafeCheckpointError: The target cannot be used.
        BaseDraftMissingError, ArtifactCorruptError: The base draft cannot be used.
        DatasetInvalidError: The prompts cannot be used.
        InsufficientStorageError: The free disk space is too small.
        InputError: A tracker is not installed, `device` is cuda and Ray has no GPU, `train.use_gpu` is set and Ray is
            private to this process and has none, or `min_gain` is set and the target's base is unknown.
    """
    check_installed(config.track)
    directory = run.stage_dir(Stage.VALIDATE)
    run.progress(Stage.VALIDATE, step=0, total_steps=1)
    base_dir = find_draft(config.base_draft)
    draft = read_draft_manifest(base_dir)
    if config.min_gain is not None:
        require_own_target(config, draft, config.target.engine or EngineKind.EDA)
    placed = placements(config)
    waiting = require_gpus(max(placement.gpus for placement in placed.values()))
    if waiting is not None:
        run.event("waiting_for_gpus", waiting, stage=Stage.VALIDATE, level="warning")
    look = _look.options(num_gpus=placed[Stage.VALIDATE].gpus)
    looked: TargetLook = ray.get(look.remote(config))
    for note in looked.notes:
        run.event("target_note", note, stage=Stage.VALIDATE, level="warning")
    if config.min_gain is not None:
        require_own_target(config, draft, looked.engine)
    fingerprint = looked.fingerprint
    check_draft_fits(draft, fingerprint)
    prompts_sha256 = _check_prompts(run, config, config.dataset, config.seed)
    if config.eval_dataset is not None:
        _check_prompts(run, config, config.eval_dataset, config.seed + 1)
    draft_shape = read_draft_config(base_dir)
    check_extension(draft_shape, config.train)
    check_reads(draft_shape, looked.shape.num_layers)
    check_split(config.target.model_copy(update={"engine": looked.engine}), looked.shape, draft_shape)
    need = disk_need_bytes(config, draft_shape)
    free = require_free_bytes(run.root, need, param="dataset.num_prompts")
    chosen = config.target.model_copy(update={"engine": looked.engine})
    ranges, num_jobs = expected_ranges(
        config.model_copy(update={"target": chosen}), looked.shape, draft_shape, run.home
    )
    seconds = sum(each.median for each in ranges.values())
    low, high = (sum(times) for times in zip(*((each.low, each.high) for each in ranges.values()), strict=True))
    said = f"needs at most {size(need)} of disk and about {duration(seconds)}"
    said += f" ({duration(low)} to {duration(high)}, from {num_jobs} earlier jobs)"
    run.event("estimated", said, stage=Stage.VALIDATE)
    path = directory / "target.json"
    path.write_text(fingerprint.model_dump_json(indent=2) + "\n", encoding="utf-8")
    entry = file_entry(directory, path)
    run.store.upload(Stage.VALIDATE, [entry])
    run.progress(Stage.VALIDATE, step=1, total_steps=1)
    heldout = config.evaluation.num_prompts if config.eval_dataset is None else config.eval_dataset.num_prompts
    return ValidateFields(
        inputs={"base_draft": draft.files[0].sha256, "target": fingerprint.weights_sha256},
        files=(entry,),
        target=fingerprint,
        base_draft=str(Reference(draft.name, draft.version)),
        base_draft_sha256=sha256_text("".join(entry.sha256 for entry in draft.files)),
        num_prompts=config.dataset.num_prompts - (0 if config.eval_dataset else heldout),
        num_eval_prompts=heldout,
        prompts_sha256=prompts_sha256,
        disk_need_bytes=need,
        disk_free_bytes=free,
        estimated_seconds=seconds,
        engine=looked.engine,
        expected={
            Stage(name): StageTime(low=each.low, median=each.median, high=each.high)
            for name, each in ranges.items()
            if each.median > 0
        },
        expected_from=num_jobs,
    )


def _check_prompts(run: RunDir, config: AdaptConfig, dataset: DatasetSpec, seed: int) -> str:
    """Read the prompts (the target writes its own later) and hash them; log which rows hold none."""
    if dataset.source == "self":
        return sha256_text(dataset.model_dump_json())
    skipped = SkippedRows(config.selfgen.max_error_fraction)
    prompts = load_prompts(dataset, seed=seed, skipped=skipped)
    if skipped.num:
        run.event("rows_skipped", f"{dataset.source}: {skipped}", stage=Stage.VALIDATE, level="warning")
    return sha256_text(json.dumps([json.loads(prompt.content) for prompt in prompts]))


@dataclass(frozen=True)
class TargetLook:
    """The facts about a target: notes for people, its identity, its sizes, and its engine."""

    notes: tuple[str, ...]
    fingerprint: TargetFingerprint
    shape: ModelShape
    engine: EngineKind


@ray.remote(num_cpus=MODEL_CPUS, max_retries=2)
def _look(config: AdaptConfig) -> TargetLook:
    """Read the facts that need the target's files: its checks, fingerprint and sizes. `device` is tested where stages
    will compute; no GPU of vLLM is reserved for this.
    """
    limit_threads(config.selfgen.threads_per_actor)
    spec, shape = config.target, shape_of_target(config.target)
    engine = spec.engine
    if engine is None:
        device = choose_device(config.device)
        engine = chosen_engine(spec, device)
        if engine is EngineKind.VLLM and device.type != "cpu":
            check_room(config, shape, memory_bytes(device))
    elif engine is EngineKind.EDA:
        choose_device(config.device)
    if engine is EngineKind.VLLM:
        require_vllm("where Ray's workers run", param="target.engine")
    return TargetLook(
        notes=tuple(check_target(resolve_target(spec), engine=engine)),
        fingerprint=fingerprint_target(spec, engine),
        shape=shape,
        engine=engine,
    )


def fingerprint_target(spec: TargetSpec, engine: EngineKind) -> TargetFingerprint:
    """Identify a target from its files; its generation_config.json must have no unsupported setting."""
    resolved = resolve_target(spec)
    defaults = read_generation_defaults(resolved.model_dir)
    if engine is EngineKind.VLLM:
        require_vllm_computes(defaults)
    return fingerprint(resolved, target_tokenizer(resolved), load_config(resolved.model_dir))


VALIDATE = StageRunner(ValidateRecord, part=lambda config: config.target, run=run_validate)
