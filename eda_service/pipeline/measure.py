"""Measurement of a draft, or a draft and a pack, on a target and prompts: one stage, in one Ray task."""

from __future__ import annotations

import ray
import torch

from eda_service.config.job import EvalConfig, SelfGenConfig, TargetSpec
from eda_service.config.tasks import MeasureConfig
from eda_service.engines.own import OwnEngine
from eda_service.errors import InputError
from eda_service.measurement import Measurement
from eda_service.pipeline.driver import drive
from eda_service.pipeline.measuring import check_staged, measure_draft
from eda_service.pipeline.stage import StageRunner
from eda_service.planning.placement import MODEL_CPUS
from eda_service.raycluster.resources import connect, limit_threads, require_gpus
from eda_service.records import Stage, TargetFingerprint
from eda_service.references import Reference
from eda_service.selfgen.magpie import write_prompts
from eda_service.selfgen.prompts import Prompt, load_prompts
from eda_service.selfgen.skipped_rows import SkippedRows
from eda_service.storage.fits import check_draft_fits, check_pack_fits
from eda_service.storage.registry import (
    find_draft,
    find_draft_manifest,
    find_pack,
    find_pack_manifest,
    read_draft_manifest,
    read_pack_manifest,
)
from eda_service.storage.run import RunDir
from eda_service.targets.chat.chat import target_tokenizer
from eda_service.targets.checks.check import check_target, load_config
from eda_service.targets.device import choose_device
from eda_service.targets.identity import fingerprint
from eda_service.targets.loader import load_target
from eda_service.targets.resolve import ResolvedTarget, resolve_target
from eda_service.task_records import MeasureFields, MeasureRecord

_USUAL = SelfGenConfig()
"""A measurement takes an adaptation's defaults where it has no setting of its own."""


def measure(run: RunDir, config: MeasureConfig) -> MeasureRecord:
    """The one stage of a measurement, ending with `result.json`.

    Raises:
        EdaError: What failed; `result.json` then carries its code.
    """

    def ended(record: MeasureRecord) -> None:
        advice = record.measurement.advice
        run.event("draft_measured", advice or f"measured {record.draft}", stage=Stage.MEASURE)
        run.succeed_with(run.job_id)

    return drive(run, config, MEASURING, MeasureRecord, ended)


def run_measure(run: RunDir, config: MeasureConfig) -> MeasureFields:
    """Check that draft, pack and target fit, and measure.

    Raises:
        BaseDraftMissingError, NotFoundError: The draft or the pack.
        TargetNotFoundError, TargetIncompatibleError: The target, or it is not one that they were made for.
        InputError: `use_gpu`, and a Ray of this process's own has none.
    """
    run.progress(Stage.MEASURE, step=0, total_steps=1)
    connect()
    waiting = require_gpus(int(config.use_gpu))
    if waiting is not None:
        run.event("waiting_for_gpus", waiting, stage=Stage.MEASURE, level="warning")
    config = _with_versions(config)
    target, found = ray.get(_measure.options(num_gpus=int(config.use_gpu)).remote(config))
    run.progress(Stage.MEASURE, step=1, total_steps=1)
    return MeasureFields(
        inputs={"target": target.weights_sha256},
        target=target,
        draft=config.draft,
        pack=config.pack,
        measurement=found,
    )


def _with_versions(config: MeasureConfig) -> MeasureConfig:
    """The config with the newest versions of a draft and a pack that are named without one: the record says which it
    was, and a task that is tried again measures the same.

    Raises:
        BaseDraftMissingError, NotFoundError: The draft or the pack.
    """
    draft = find_draft_manifest(config.draft)
    pack = None if config.pack is None else find_pack_manifest(config.pack).pack
    return config.model_copy(update={"draft": str(Reference(draft.name, draft.version)), "pack": pack})


@ray.remote(num_cpus=MODEL_CPUS, max_retries=2)
def _measure(config: MeasureConfig) -> tuple[TargetFingerprint, Measurement]:
    limit_threads(config.threads)
    _, identity = _checked(config.target)
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
    device = choose_device("cuda" if config.use_gpu else "cpu")
    if config.check:
        found = check_staged(
            draft_dir, config.target, device=device, num_prompts=config.dataset.num_prompts, thorough=True
        )
        return identity, Measurement(num_prompts=found.num_prompts, check=found, advice=found.advice)
    if config.base_target is not None:
        check_draft_fits(draft, _checked(config.base_target)[1])
    prompts = _prompts(config, device)
    settings = EvalConfig(
        num_prompts=config.dataset.num_prompts,
        max_new_tokens=config.max_new_tokens,
        num_draft_tokens=config.num_draft_tokens,
        temperatures=config.temperatures,
        threads=config.threads,
    )
    measured = measure_draft(
        config.target,
        draft_dir,
        pack_dir,
        prompts,
        settings,
        max_prompt_tokens=_USUAL.max_prompt_tokens,
        base=config.base_target,
        device=device,
    )
    return identity, measured


def _prompts(config: MeasureConfig, device: torch.device) -> list[Prompt]:
    """Those of the data set, which the target may have to write first."""
    dataset, seed = config.dataset, config.seed
    if dataset.source == "self":
        engine = OwnEngine(load_target(config.target, device=device))
        return write_prompts(engine, dataset.num_prompts, seed=seed, batch_size=_USUAL.batch_size)
    return load_prompts(dataset, seed=seed, skipped=SkippedRows(_USUAL.max_error_fraction))


def _checked(spec: TargetSpec) -> tuple[ResolvedTarget, TargetFingerprint]:
    resolved = resolve_target(spec)
    check_target(resolved)
    return resolved, fingerprint(resolved, target_tokenizer(resolved), load_config(resolved.model_dir))


MEASURE = StageRunner(MeasureRecord, part=lambda config: config, run=run_measure)
MEASURING = (MEASURE,)
"""The stages of a measurement."""
