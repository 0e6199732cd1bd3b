"""Measurement of a draft, or a draft and a pack, on a target and prompts: one stage, in one Ray task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import ray

from eda_service.config.job import TargetSpec
from eda_service.config.tasks import MeasureConfig
from eda_service.errors import EdaError, InputError
from eda_service.pipeline.driver import drive
from eda_service.pipeline.import_draft import CHECK_DRAFT
from eda_service.pipeline.stage import StageRunner
from eda_service.planning.placement import MODEL_CPUS
from eda_service.raycluster.resources import connect, limit_threads, require_gpus
from eda_service.records import Stage, TargetFingerprint
from eda_service.storage.fits import check_draft_fits, check_pack_fits
from eda_service.storage.registry import find_draft, find_pack, read_draft_manifest, read_pack_manifest
from eda_service.storage.run import RunDir
from eda_service.targets.base_target import find_base
from eda_service.targets.chat.chat import target_tokenizer
from eda_service.targets.checks.check import check_target, load_config
from eda_service.targets.loader import fingerprint
from eda_service.targets.resolve import ResolvedTarget, resolve_target
from eda_service.task_records import MeasureFields, Measurement, MeasureRecord


@dataclass(frozen=True)
class Measured:
    """What is measured: directories that have been checked to fit each other."""

    draft_dir: Path
    pack_dir: Path | None
    target: ResolvedTarget
    base_target: ResolvedTarget | None


class Measure(Protocol):
    """Measures; what is to be measured fits already."""

    def __call__(self, what: Measured, config: MeasureConfig, /) -> Measurement: ...


def _no_measure(what: Measured, config: MeasureConfig, /) -> Measurement:
    raise EdaError("this version cannot measure drafts yet; install a newer one")


# CONNECT HERE: the measurement.
MEASURE_DRAFT: Measure = _no_measure


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
    target, found = ray.get(_measure.options(num_gpus=int(config.use_gpu)).remote(config))
    run.progress(Stage.MEASURE, step=1, total_steps=1)
    return MeasureFields(
        inputs={"target": target.weights_sha256},
        target=target,
        draft=config.draft,
        pack=config.pack,
        measurement=found,
    )


@ray.remote(num_cpus=MODEL_CPUS, max_retries=2)
def _measure(config: MeasureConfig) -> tuple[TargetFingerprint, Measurement]:
    limit_threads(config.threads)
    target, identity = _checked(config.target)
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
        found = CHECK_DRAFT(
            draft_dir, find_base(config.target), num_prompts=config.num_prompts, seed=config.seed, declared={}
        )
        return identity, Measurement(num_prompts=found.num_prompts, check=found, advice=found.advice)
    base_target = None if config.base_target is None else _checked(config.base_target)[0]
    return identity, MEASURE_DRAFT(Measured(draft_dir, pack_dir, target, base_target), config)


def _checked(spec: TargetSpec) -> tuple[ResolvedTarget, TargetFingerprint]:
    resolved = resolve_target(spec)
    check_target(resolved)
    return resolved, fingerprint(resolved, target_tokenizer(resolved), load_config(resolved.model_dir))


MEASURE = StageRunner(MeasureRecord, part=lambda config: config, run=run_measure)
MEASURING = (MEASURE,)
"""The stages of a measurement."""
