"""The measured costs of a job that has ended, from its records, and the calibration that follows from its plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eda_service.config.job import AdaptConfig
from eda_service.drafts.draft_config import DraftConfig
from eda_service.errors import InputError
from eda_service.planning.base_draft import draft_config
from eda_service.planning.calibration import Calibration
from eda_service.planning.constants import Device
from eda_service.planning.plan import Plan, make_plan
from eda_service.planning.workload import Lengths
from eda_service.records import DraftCheckpoint, EvalReport, SelectionManifest, SelfGenManifest, Stage, ValidateRecord
from eda_service.storage.runs.run import RunDir
from eda_service.targets.files.shape import ModelShape, shape_of_target


@dataclass(frozen=True)
class Measured:
    """The measured costs of one job.

    Attributes:
        config: Config of the job as it ran.
        shape: Sizes of its target.
        draft: Config of its base draft, which determines what is kept and trained per token.
        lengths: Mean tokens of its prompts and answers.
        seconds: Seconds of each stage from start to end.
        generate_work_s: Seconds of one actor for the check of `min_gain` and for decoding of the reference and of the
            shards with the measuring of their samples.
        train_work_s: Seconds in the training loop.
        disk_bytes: Bytes of the self-generated set's files.
    """

    config: AdaptConfig
    shape: ModelShape
    draft: DraftConfig
    lengths: Lengths
    seconds: dict[str, float]
    generate_work_s: float
    train_work_s: float
    disk_bytes: int

    def plan(self, device: Device, calibration: Calibration | None = None) -> Plan:
        """Plan the same job."""
        return make_plan(self.config, self.shape, device, self.lengths, calibration, self.draft)

    def calibration(self, device: Device) -> Calibration:
        """Compute the factors that turn the plan of this job into its measured costs."""
        planned = {stage.stage: stage for stage in self.plan(device).stages}

        def factor(stage: str, work_s: float) -> float:
            return work_s / (planned[stage].seconds - planned[stage].start_s)

        return Calibration(
            generate=factor("generate", self.generate_work_s),
            train=factor("train", self.train_work_s),
            evaluate=factor("evaluate", self.seconds["evaluate"] - planned["evaluate"].start_s),
            generate_start_s=self.seconds["generate"] - self.generate_work_s,
            train_start_s=self.seconds["train"] - self.train_work_s,
            validate_s=self.seconds["validate"],
        )


def measure(run_root: Path) -> Measured:
    """Read the records of a job.

    Raises:
        InputError: The job has not ended with all its records.
        ArtifactCorruptError: A record does not parse.
        BaseDraftMissingError: The job's base draft is gone.
    """
    run = RunDir(run_root)
    validated = run.read_record(ValidateRecord, Stage.VALIDATE, verify=False)
    generated = run.read_record(SelfGenManifest, Stage.GENERATE, verify=False)
    selected = run.read_record(SelectionManifest, Stage.SELECT, verify=False)
    trained = run.read_record(DraftCheckpoint, Stage.TRAIN, verify=False)
    evaluated = run.read_record(EvalReport, Stage.EVALUATE, verify=False)
    if validated is None or generated is None or selected is None or trained is None or evaluated is None:
        raise InputError(f"{run_root} lacks a stage's record; name the run directory of a job that ended", param="from")
    config = run.config()
    actors = min(config.selfgen.num_actors, max(1, generated.num_samples // config.selfgen.shard_size))
    prompts = generated.num_tokens - generated.num_answer_tokens
    return Measured(
        config=config,
        shape=shape_of_target(config.target),
        draft=draft_config(config.base_draft, run.home),
        lengths=Lengths(prompts / generated.num_samples, generated.num_answer_tokens / generated.num_samples),
        seconds={
            "validate": validated.seconds,
            "generate": generated.seconds,
            "select": selected.seconds,
            "train": trained.seconds,
            "evaluate": evaluated.seconds,
        },
        generate_work_s=generated.gate_seconds
        + generated.reference_seconds
        + (generated.generation_seconds + generated.scoring_seconds) / actors,
        train_work_s=trained.training_seconds,
        disk_bytes=sum(entry.size_bytes for entry in generated.files),
    )
