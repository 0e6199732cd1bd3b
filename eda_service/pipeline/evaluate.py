"""Stage evaluate: the base draft, the adapted draft and the packs to compare with, against the same target, on the same
prompts, in the same engine, in one Ray task.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import ray

from eda_service.config.job import AdaptConfig, EngineKind
from eda_service.decoding.build import load_drafts
from eda_service.engines.own import OwnEngine
from eda_service.errors import EdaError
from eda_service.evaluation.bench import Bench
from eda_service.evaluation.lossless import check_lossless
from eda_service.evaluation.speed import BASELINE
from eda_service.measured_rows import AcceptanceRow, LosslessCheck, SpeedRow
from eda_service.pipeline.evaluate_vllm import measure_with_vllm
from eda_service.pipeline.heldout import held_out
from eda_service.pipeline.measurements import Measurements
from eda_service.pipeline.prepare import HELDOUT_FILE
from eda_service.pipeline.side_by_side import PREFIX, decoded_length, load_rivals, measure_fixed
from eda_service.pipeline.stage import StageRunner
from eda_service.pipeline.target_engine import engine_of
from eda_service.planning.placement import MODEL_CPUS, num_gpus
from eda_service.raycluster.resources import limit_threads
from eda_service.records import (
    ADAPTED,
    BASE,
    DraftCheckpoint,
    EvalFields,
    EvalReport,
    FileEntry,
    FixedScores,
    Rival,
    SelectionManifest,
    SelfGenManifest,
    Stage,
    TargetFingerprint,
    ValidateRecord,
)
from eda_service.storage.files import file_entry
from eda_service.storage.published.packs import measured_on
from eda_service.storage.published.registry import find_draft
from eda_service.storage.runs.provenance import machine
from eda_service.storage.runs.rivals import Rivals, read_rivals
from eda_service.storage.runs.run import RunDir
from eda_service.training.tracking import open_trackers

logger = logging.getLogger(__name__)


def run_evaluate(run: RunDir, config: AdaptConfig) -> EvalFields:
    """Measure acceptance, speed and losslessness, beside the packs that the dispatcher named, and draw the plots.

    Raises:
        ArtifactCorruptError: An earlier record is missing.
    """
    validated, generated = run.require(ValidateRecord), run.require(SelfGenManifest)
    selected, trained = run.require(SelectionManifest), run.require(DraftCheckpoint)
    run.progress(Stage.EVALUATE, step=0, total_steps=1)
    heldout = [entry for entry in generated.files if entry.path == HELDOUT_FILE]
    inputs = {Stage.GENERATE: tuple(heldout), Stage.TRAIN: trained.files}
    rivals = read_rivals(run)
    logger.info("measuring base and adapted draft%s", f", and {', '.join(rivals.packs)}" if rivals.packs else "")
    if engine_of(run, config) is EngineKind.VLLM:
        result = measure_with_vllm(run, config, inputs, rivals, validated.target)
    else:
        task = _evaluate.options(num_gpus=num_gpus(config.train))
        result = ray.get(task.remote(run.root, config, inputs, rivals, validated.target))
    for each in result.rivals:
        if each.left_out is not None:
            run.event(
                "rival_left_out",
                f"not measured beside {each.pack}: {each.left_out}",
                stage=Stage.EVALUATE,
                level="warning",
            )
    with open_trackers(run, config) as report:
        report(
            trained.best_step,
            {f"{row.draft}/acceptance_length_T{row.temperature:g}": row.acceptance_length for row in result.acceptance},
        )
    paths = _plots(run, result.acceptance, trained, selected, generated)
    files = tuple(file_entry(run.stage_dir(Stage.EVALUATE), path) for path in paths)
    run.store.upload(Stage.EVALUATE, files)
    return EvalFields(
        inputs={entry.path: entry.sha256 for entry in trained.files},
        files=files,
        num_draft_tokens=config.evaluation.depth,
        acceptance=result.acceptance,
        speed=result.speed,
        lossless=result.lossless,
        machine=machine(),
        measured_on=measured_on(config, result.num_prompts),
        rivals=result.rivals,
        fixed=result.fixed,
        generation_defaults=result.generation_defaults,
    )


def _plots(
    run: RunDir,
    acceptance: Sequence[AcceptanceRow],
    trained: DraftCheckpoint,
    selected: SelectionManifest,
    generated: SelfGenManifest,
) -> list[Path]:
    from eda_service.evaluation.plots import plot_acceptance, plot_selection, plot_training

    directory = run.stage_dir(Stage.EVALUATE)
    paths = [directory / name for name in ("acceptance.png", "training.png", "selection.png")]
    plot_acceptance(acceptance, paths[0])
    plot_training(trained.curve, paths[1])
    plot_selection(generated.scores, selected.threshold, paths[2], generated.value_name)
    return paths


@ray.remote(num_cpus=MODEL_CPUS, max_retries=2)
def _evaluate(
    run_root: Path,
    config: AdaptConfig,
    inputs: Mapping[Stage, Sequence[FileEntry]],
    rivals: Rivals,
    target: TargetFingerprint,
) -> Measurements:
    limit_threads(config.evaluation.threads)
    run = RunDir(run_root)
    for stage, entries in inputs.items():
        run.store.fetch(stage, entries)
    return EvaluationRun(run, config).measure(rivals, target)


class EvaluationRun:
    """Engines over one target: autoregressive, base draft, adapted draft and rivals."""

    def __init__(self, run: RunDir, config: AdaptConfig) -> None:
        from eda_service.targets.device import choose_device
        from eda_service.targets.loader import load_target

        self.run, self.config = run, config
        self.target = load_target(config.target, device=choose_device(config.device))
        heldout = held_out(run, config, self.target.tokenizer)
        self.heldout = heldout.prompts
        base_dir = find_draft(config.base_draft)
        pack_dir = run.stage_dir(Stage.TRAIN) / "pack"
        drafts = {
            BASE: load_drafts(base_dir, None, target=self.target),
            ADAPTED: load_drafts(base_dir, pack_dir, target=self.target),
        }
        longest = config.selfgen.max_prompt_tokens + config.evaluation.max_new_tokens
        self.bench = Bench(self.target, drafts, heldout.token_ids, config.evaluation, longest)
        self._step = self._total = 0

    def measure(self, rivals: Rivals, fingerprint: TargetFingerprint) -> Measurements:
        """Measure all numbers of the report.

        Args:
            rivals: Published packs to measure beside the job's own.
            fingerprint: Fingerprint of the target, as it was validated.
        """
        loaded = load_rivals(rivals, self.target, fingerprint)
        self.bench.drafts |= {PREFIX + pack: draft for pack, draft in loaded.drafts.items()}
        self._total = len(self.config.evaluation.temperatures) * (len(self.bench.drafts) + 1) + 2
        acceptance, lossless = self._acceptance()
        speed = self._speed() if self.config.evaluation.num_timed_prompts else []
        measured = tuple(
            Rival(
                pack=pack,
                roles=roles,
                acceptance=tuple(row for row in acceptance if row.draft == PREFIX + pack),
                speed=tuple(row for row in speed if row.mode == PREFIX + pack),
                left_out=loaded.left_out.get(pack),
            )
            for pack, roles in rivals.packs.items()
        )
        fixed = self._fixed(rivals.owner, fingerprint, acceptance)
        return Measurements(
            acceptance=tuple(row for row in acceptance if row.draft in (BASE, ADAPTED)),
            speed=tuple(row for row in speed if row.mode in (BASELINE, BASE, ADAPTED)),
            lossless=lossless,
            rivals=measured,
            fixed=fixed,
            num_prompts=len(self.bench.prompts),
            generation_defaults=self.target.defaults.said,
        )

    def _fixed(
        self, owner: str, fingerprint: TargetFingerprint, acceptance: Sequence[AcceptanceRow]
    ) -> FixedScores | None:
        """Measure on the fixed evaluation; the job's own numbers exist, so an error here does not fail the job."""
        first = self.config.evaluation.temperatures[0]
        measured = {
            row.draft.removeprefix(PREFIX): row.acceptance_length for row in acceptance if row.temperature == first
        }
        try:
            scores = measure_fixed(
                self.config,
                self.target,
                fingerprint,
                owner=owner,
                drafts={name.removeprefix(PREFIX): draft for name, draft in self.bench.drafts.items() if name != BASE},
                heldout=self.heldout,
                measured=measured,
                length=lambda fixed, prompts, loaded: decoded_length(
                    fixed, prompts, loaded, self.target, self.config.evaluation.batch_size
                ),
            )
        except (EdaError, OSError, ValueError) as error:
            logger.warning("not measured on the fixed evaluation: %s", error)
            self.run.event("fixed_evaluation_left_out", str(error)[:400], stage=Stage.EVALUATE, level="warning")
            return None
        self._tick()
        return scores

    def _tick(self) -> None:
        self._step += 1
        self.run.progress(Stage.EVALUATE, step=self._step, total_steps=self._total)

    def _acceptance(self) -> tuple[list[AcceptanceRow], LosslessCheck]:
        bench = self.bench
        rows: list[AcceptanceRow] = []
        plain = bench.decode(BASELINE, 0.0)
        self._tick()
        speculative: list[list[int]] | None = None
        for temperature in self.config.evaluation.temperatures:
            for name in bench.drafts:
                decoded = bench.decode(name, temperature)
                rows.append(bench.row(name, temperature, decoded))
                self._tick()
                if temperature == 0 and name == ADAPTED:
                    speculative = decoded.token_ids
        if speculative is None:
            speculative = bench.decode(ADAPTED, 0.0).token_ids
        return rows, check_lossless(
            OwnEngine(self.target), bench.prompts, plain.token_ids, speculative, bench.params(0.0)
        )

    def _speed(self) -> list[SpeedRow]:
        settings = self.config.evaluation
        rows: list[SpeedRow] = []
        for measured in self.bench.speeds(settings.timed_temperatures or settings.temperatures):
            rows += measured
            self._tick()
        return rows


EVALUATE = StageRunner(EvalReport, part=lambda config: config.evaluation, run=run_evaluate)
