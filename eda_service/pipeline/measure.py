"""Measurement of a draft, or a draft and a pack, on a target and prompts: one stage, in one Ray task."""

from __future__ import annotations

from collections.abc import Callable

import ray

from eda_service.config.job import EngineKind, EvalConfig, SelfGenConfig, TargetSpec
from eda_service.config.tasks import MeasureConfig
from eda_service.drafts.checkpoint import read_draft_config
from eda_service.engines.engine import TargetEngine
from eda_service.engines.own import OwnEngine
from eda_service.engines.vllm import VllmEngine
from eda_service.errors import InputError
from eda_service.evaluation.measure import Measured, conclude
from eda_service.measurement import Measurement
from eda_service.pipeline.driver import drive
from eda_service.pipeline.measuring import check_staged, measure_draft, measured_on
from eda_service.pipeline.stage import StageRunner
from eda_service.pipeline.target_engine import chosen_engine, ends_with_engine
from eda_service.planning.placement import MODEL_CPUS, task_placement
from eda_service.raycluster.engine_room import room_for
from eda_service.raycluster.resources import connect, limit_threads, require_gpus
from eda_service.records import Stage, TargetFingerprint
from eda_service.references import Reference
from eda_service.selfgen.magpie import write_prompts
from eda_service.selfgen.prompts import Prompt, load_prompts
from eda_service.selfgen.skipped_rows import SkippedRows
from eda_service.storage.published.compatibility import check_draft_fits, check_pack_fits
from eda_service.storage.published.registry import (
    find_draft,
    find_draft_manifest,
    find_pack,
    find_pack_manifest,
    read_draft_manifest,
    read_pack_manifest,
)
from eda_service.storage.runs.provenance import machine
from eda_service.storage.runs.run import RunDir
from eda_service.targets.chat.chat import target_tokenizer
from eda_service.targets.checks.check import check_target, load_config
from eda_service.targets.device import choose_device
from eda_service.targets.files.identity import fingerprint
from eda_service.targets.files.resolve import ResolvedTarget, resolve_target
from eda_service.targets.load_ends import load_ends
from eda_service.targets.loader import load_target
from eda_service.task_records import MeasureFields, MeasureRecord

_USUAL = SelfGenConfig()
"""Defaults of an adaptation, for settings that a measurement does not have."""


def measure(run: RunDir, config: MeasureConfig) -> MeasureRecord:
    """Run the one stage of a measurement, ending with `result.json`.

    Raises:
        EdaError: The stage failed; `result.json` then carries its code.
    """

    def ended(record: MeasureRecord) -> None:
        advice = record.measurement.advice
        run.event("draft_measured", advice or f"measured {record.draft}", stage=Stage.MEASURE)
        run.succeed_with(run.job_id)

    return drive(run, config, MEASURING, MeasureRecord, ended)


def run_measure(run: RunDir, config: MeasureConfig) -> MeasureFields:
    """Check that draft, pack and target fit, and measure.

    Raises:
        BaseDraftMissingError, NotFoundError: The draft or the pack does not exist.
        TargetNotFoundError, TargetIncompatibleError: The target cannot be used, or draft or pack were made for another.
        InputError: The config has `use_gpu`, and Ray is private to this process and has no GPU.
    """
    run.progress(Stage.MEASURE, step=0, total_steps=1)
    connect()
    waiting = require_gpus(int(config.use_gpu))
    if waiting is not None:
        run.event("waiting_for_gpus", waiting, stage=Stage.MEASURE, level="warning")
    config = _with_versions(config)
    gpus = int(config.use_gpu)
    target, found = ray.get(_measure.options(num_gpus=gpus).remote(config))
    if found is None:
        placement = task_placement(_inside_vllm(config))
        with room_for(placement) as room:
            task = _by_vllm.options(**room.of_task())
            prompts, on_target = ray.get(task.remote(config, config.target, config.pack, None))
        on_base = None
        if config.base_target is not None:
            run.progress(Stage.MEASURE, step=0, total_steps=1)
            with room_for(placement) as room:
                task = _by_vllm.options(**room.of_task())
                _, on_base = ray.get(task.remote(config, _as_run(config.base_target, config), None, prompts))
        found = conclude(on_target, on_base, machine=machine())
    run.progress(Stage.MEASURE, step=1, total_steps=1)
    return MeasureFields(
        inputs={"target": target.weights_sha256},
        target=target,
        draft=config.draft,
        pack=config.pack,
        measurement=found,
    )


def _with_versions(config: MeasureConfig) -> MeasureConfig:
    """Add the newest version to a draft and a pack that are named without one: the record then has the version, and a
    repeated task measures the same one.

    Raises:
        BaseDraftMissingError, NotFoundError: The draft or the pack does not exist.
    """
    draft = find_draft_manifest(config.draft)
    pack = None if config.pack is None else find_pack_manifest(config.pack).pack
    return config.model_copy(update={"draft": str(Reference(draft.name, draft.version)), "pack": pack})


@ray.remote(num_cpus=MODEL_CPUS, max_retries=2)
def _measure(config: MeasureConfig) -> tuple[TargetFingerprint, Measurement | None]:
    """Measure; None if vLLM runs the target, which needs processes of its own."""
    limit_threads(config.threads)
    device = choose_device("cuda" if config.use_gpu else "cpu")
    kind = chosen_engine(config.target, device)
    _, identity = _checked(config.target, kind)
    draft_dir = find_draft(config.draft)
    draft = read_draft_manifest(draft_dir)
    check_draft_fits(draft, identity)
    pack_dir = None if config.pack is None else find_pack(config.pack)
    if pack_dir is not None:
        manifest = read_pack_manifest(pack_dir)
        check_pack_fits(manifest, identity)
        if manifest.base_draft != f"{draft.name}@{draft.version}":
            raise InputError(
                f"pack {config.pack} was trained beside {manifest.base_draft}, not {config.draft}; name that draft",
                param="pack",
            )
    if config.check:
        with ends_with_engine():
            found = check_staged(
                draft_dir,
                config.target.model_copy(update={"engine": kind}),
                device=device,
                threads=config.threads,
                num_prompts=config.dataset.num_prompts,
                thorough=True,
            )
        return identity, Measurement(num_prompts=found.num_prompts, check=found, advice=found.advice)
    if config.base_target is not None:
        check_draft_fits(draft, _checked(config.base_target, kind)[1])
    if kind is EngineKind.VLLM:
        return identity, None
    measured = measure_draft(
        config.target,
        draft_dir,
        pack_dir,
        _prompts(config, lambda: OwnEngine(load_target(config.target, device=device))),
        _settings(config),
        max_prompt_tokens=_USUAL.max_prompt_tokens,
        base=config.base_target,
        device=device,
    )
    return identity, measured


def _inside_vllm(config: MeasureConfig) -> MeasureConfig:
    return config.model_copy(update={"target": config.target.model_copy(update={"engine": EngineKind.VLLM})})


@ray.remote(max_retries=2, max_calls=1)
def _by_vllm(
    config: MeasureConfig, spec: TargetSpec, pack: str | None, prompts: list[Prompt] | None
) -> tuple[list[Prompt], Measured]:
    """Measure on one target inside vLLM, which ends with this task's process; prompts are read or written if none are
    given.
    """
    limit_threads(config.threads)
    draft_dir = find_draft(config.draft)
    with ends_with_engine():
        engine = VllmEngine(
            load_ends(spec),
            spec.vllm,
            max_tokens=_USUAL.max_prompt_tokens + config.max_new_tokens + 1,
            batch_size=_USUAL.batch_size,
            captures=read_draft_config(draft_dir).captures,
            threads=config.threads,
            seed=config.seed,
        )
        asked = prompts or _prompts(config, lambda: engine)
        pack_dir = None if pack is None else find_pack(pack)
        most = _USUAL.max_prompt_tokens
        return asked, measured_on(engine, draft_dir, pack_dir, asked, _settings(config), most, timed=False)


def _as_run(spec: TargetSpec, config: MeasureConfig) -> TargetSpec:
    """Return a base target with the target's engine settings."""
    return spec.model_copy(update={"engine": config.target.engine, "vllm": config.target.vllm})


def _settings(config: MeasureConfig) -> EvalConfig:
    return EvalConfig(
        num_prompts=config.dataset.num_prompts,
        max_new_tokens=config.max_new_tokens,
        num_draft_tokens=config.num_draft_tokens,
        temperatures=config.temperatures,
        threads=config.threads,
    )


def _prompts(config: MeasureConfig, engine: Callable[[], TargetEngine]) -> list[Prompt]:
    """Return the prompts of the data set; if there is none, the target writes them."""
    dataset, seed = config.dataset, config.seed
    if dataset.source == "self":
        return write_prompts(engine(), dataset.num_prompts, seed=seed, batch_size=_USUAL.batch_size)
    return load_prompts(dataset, seed=seed, skipped=SkippedRows(_USUAL.max_error_fraction))


def _checked(spec: TargetSpec, kind: EngineKind) -> tuple[ResolvedTarget, TargetFingerprint]:
    resolved = resolve_target(spec)
    check_target(resolved, engine=kind)
    return resolved, fingerprint(resolved, target_tokenizer(resolved), load_config(resolved.model_dir))


MEASURE = StageRunner(MeasureRecord, part=lambda config: config, run=run_measure)
MEASURING = (MEASURE,)
"""The stages of a measurement."""
