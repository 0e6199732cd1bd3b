"""The records that travel between stages: one frozen record per stage, on storage, self-describing.

A stage reads the record before it and writes its own as `record.json` in its directory; a stage whose valid record
exists is skipped. Records carry numbers, names and hashes, never tensors.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, ConfigDict, Field, RootModel

from eda_service.config.job import EngineKind
from eda_service.draft_check import DraftCheck
from eda_service.measured_rows import AcceptanceRow, Frozen, LosslessCheck, SpeedRow

SCHEMA_VERSION = 1
ADAPTED, BASE = "adapted_draft", "base_draft"
"""Names of the two drafts of an evaluation."""
DISTANCE = "distance"
"""Name of a sample's value where a record gives none: Eq. 14's, of the paper's selector and of those that report it."""
MAX_ROW_BYTES = 8 << 20
"""Largest size of one line of a prompt file in bytes."""


class Stage(StrEnum):
    """The stages of jobs of every kind, each kind's in their order."""

    VALIDATE = "validate"
    GENERATE = "generate"
    SELECT = "select"
    TRAIN = "train"
    EVALUATE = "evaluate"
    READ = "read"
    CHECK = "check"
    MEASURE = "measure"
    EXPORT = "export"
    PUBLISH = "publish"


STAGES = (Stage.VALIDATE, Stage.GENERATE, Stage.SELECT, Stage.TRAIN, Stage.EVALUATE, Stage.PUBLISH)
"""Stages of an adaptation, in order."""


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise ValueError("a file's path must lie inside its artifact")
    return path


class FileEntry(Frozen):
    """One file of an artifact: path relative to its directory, hash, size; transient files may be gone later."""

    path: Annotated[str, AfterValidator(_inside)]
    sha256: str
    size_bytes: int
    transient: bool = False


ValueName = Annotated[
    str,
    Field(exclude_if=lambda name: name == DISTANCE, description="what `sample_value` is: distance, draft_loss, .."),
]


class StageFields(Frozen):
    """The fields of a record that the stage fills in: its inputs, its outputs and its own numbers."""

    inputs: dict[str, str] = Field(description="name to sha256 of what was read")
    files: tuple[FileEntry, ...] = ()


class RecordHeader(Frozen):
    """The fields of a record that the driver fills in, the same for all stages."""

    schema_version: int = SCHEMA_VERSION
    stage: Stage
    created_at: int = Field(description="seconds since the epoch")
    seconds: float = Field(description="wall-clock time of the stage")
    config: dict[str, Any] = Field(description="the stage's own part of the job's config")
    seed: int
    library_versions: dict[str, str]


class Record(StageFields, RecordHeader):
    """A stage's fields with the header, stored as one flat object. There is one class per stage."""

    STAGE: ClassVar[Stage]


class TargetFingerprint(Frozen):
    """The identity of a target: enough to refuse a pack that was made for another one."""

    model: str
    revision: str | None
    adapter: str | None
    model_type: str
    hidden_size: int
    vocab_size: int
    num_layers: int
    tokenizer_sha256: str
    chat_template_sha256: str
    weights_sha256: str


class StageTime(Frozen):
    """How long a stage is expected to take, in seconds."""

    low: float
    median: Annotated[float, Field(gt=0)]
    high: float


class ValidateFields(StageFields):
    """Fields of stage validate."""

    target: TargetFingerprint
    base_draft: str
    base_draft_sha256: str
    num_prompts: int
    num_eval_prompts: int
    prompts_sha256: str
    disk_need_bytes: int
    disk_free_bytes: int
    estimated_seconds: float = Field(description="of the whole job, by the capacity plan")
    engine: EngineKind = Field(EngineKind.EDA, description="who runs the target in the stages that come")
    expected: dict[Stage, StageTime] = Field({}, description="of each stage, from earlier jobs; empty in older records")
    expected_from: int = Field(0, description="earlier jobs that `expected` rests on")


class ValidateRecord(ValidateFields, Record):
    """Target and base draft fit; the record has the needs of the job."""

    STAGE = Stage.VALIDATE


class SkippedRow(Frozen):
    """One prompt that gave no sample, with the reason."""

    sample_id: str
    reason: str


class SampleScore(Frozen):
    """One self-generated sample: where it is and its `sample_value` (Eq. 14, or what its selector measures)."""

    sample_id: str
    shard: str
    row: int
    num_answer_tokens: int
    sample_value: float


class SelfGenFields(StageFields):
    """Fields of stage generate."""

    num_samples: int
    num_tokens: int
    num_answer_tokens: int
    skipped: tuple[SkippedRow, ...]
    scores: tuple[SampleScore, ...]
    generation_seconds: float = Field(description="decoding time, summed over actors")
    scoring_seconds: float = Field(description="measuring samples inside the same pass, summed over actors")
    gate_seconds: float = Field(0.0, exclude_if=lambda s: not s, description="measuring the draft for `min_gain`")
    reference_seconds: float = Field(description="generating on general prompts and fitting Eqs. 11-12")
    reference_fit_seconds: float = Field(description="of which fitting PCA, mean and covariance")
    num_reference_tokens: int
    value_name: ValueName = DISTANCE
    generation_defaults: dict[str, Any] = Field({}, description="of the target's file; empty in older records")


class SelfGenManifest(SelfGenFields, Record):
    """The self-generated set (Eq. 9), scored in the pass that wrote it."""

    STAGE = Stage.GENERATE


class SelectionFields(StageFields):
    """Fields of stage select."""

    num_candidates: int
    num_selected: int
    keep_fraction: float
    threshold: float | None = Field(description="smallest kept sample_value; None where that is no line between two")
    value_name: ValueName = DISTANCE
    selected_ids: tuple[str, ...]
    num_answer_tokens: int
    selection_seconds: float = Field(description="scoring + fitting + ranking: what selection adds to generation")
    selection_over_generation_time: float


class SelectionManifest(SelectionFields, Record):
    """The compact set (Eq. 15)."""

    STAGE = Stage.SELECT


class CurvePoint(Frozen):
    """One point of the training curves."""

    step: int
    loss: float
    regression_loss: float
    cross_entropy_loss: float
    learning_rate: float
    simulated_acceptance_length: float | None = None
    seconds: float = Field(0.0, description="in the training loop up to here, all starts together")


class TrainFields(StageFields):
    """Fields of stage train."""

    num_steps: int
    best_step: int
    num_parameters: int
    num_trainable: int
    trainable_fraction: float
    frozen_sha256: str = Field(description="hash over the frozen tensors, equal before and after training")
    initial_simulated_acceptance_length: float
    best_simulated_acceptance_length: float
    curve: tuple[CurvePoint, ...]
    num_worker_restarts: int = 0
    training_seconds: float = Field(
        0.0, description="in the training loop, all starts together; `seconds` is the stage"
    )
    draft_vocab_coverage: float = Field(
        1.0, description="share of the target's answer tokens that the base draft's own vocabulary holds"
    )


class DraftCheckpoint(TrainFields, Record):
    """The trained part, chosen by simulated acceptance on held-out sequences."""

    STAGE = Stage.TRAIN


class Role(StrEnum):
    """Reasons to measure a published pack beside a new one."""

    SERVED = "served"
    CHAMPION = "champion"


class Rival(Frozen):
    """A published pack that was measured beside the new one: same prompts, settings and engine, in the same run."""

    pack: str = Field(description="name@version")
    roles: tuple[Role, ...]
    acceptance: tuple[AcceptanceRow, ...] = ()
    speed: tuple[SpeedRow, ...] = ()
    left_out: str | None = Field(None, description="why it could not be measured; None: it was")


class FixedScores(Frozen):
    """Acceptance lengths on the fixed evaluation of a pack's name and target."""

    evaluation: str = Field(description="sha256 of the fixed evaluation; equal ones were measured alike")
    lengths: dict[str, float] = Field(description="by name@version; `adapted_draft` is the job's own pack")


class EvalFields(StageFields):
    """Fields of stage evaluate."""

    num_draft_tokens: int
    acceptance: tuple[AcceptanceRow, ...]
    speed: tuple[SpeedRow, ...]
    lossless: LosslessCheck
    machine: dict[str, str]
    measured_on: str = Field("", description="which held-out prompts, in words; empty in older records")
    rivals: tuple[Rival, ...] = ()
    fixed: FixedScores | None = None
    generation_defaults: dict[str, Any] = Field(
        {}, description="what the target's generation_config.json says about answers; empty in older records"
    )


class EvalReport(EvalFields, Record):
    """The gain of the adaptation, measured in the same engine."""

    STAGE = Stage.EVALUATE


class RivalScore(Frozen):
    """The numbers that a pack's job measured for another pack."""

    pack: str = Field(description="name@version")
    acceptance_length: float = Field(description="at the evaluation's first temperature")
    speedup: float | None = Field(description="over decoding without a draft; None: speed was not measured")


class PackMetrics(RootModel[dict[str, float]]):
    """The numbers a pack carries, flat in its manifest: acceptance before and after, speedups, shares."""

    model_config = ConfigDict(frozen=True)

    @classmethod
    def of(cls, report: EvalReport, trained: DraftCheckpoint, selected: SelectionManifest) -> PackMetrics:
        """Collect the numbers that a job has measured."""
        first = report.acceptance[0].temperature
        lengths = {row.draft: row.acceptance_length for row in report.acceptance if row.temperature == first}
        return cls(
            {
                "trainable_fraction": trained.trainable_fraction,
                "keep_fraction": selected.keep_fraction,
                "selection_over_generation_time": selected.selection_over_generation_time,
                **{_length_key(row.draft, row.temperature): row.acceptance_length for row in report.acceptance},
                **{_speedup_key(row.mode, row.temperature): row.speedup_over_autoregressive for row in report.speed},
                "acceptance_ratio": lengths[ADAPTED] / lengths[BASE],
            }
        )

    def acceptance_length(self, draft: str, temperature: float) -> float | None:
        """Return the acceptance length of a draft at a temperature; None: not measured."""
        return self.root.get(_length_key(draft, temperature))

    def speedup(self, mode: str, temperature: float) -> float | None:
        """Return the speedup of a mode over decoding without a draft; None: not measured."""
        return self.root.get(_speedup_key(mode, temperature))

    @property
    def acceptance_ratio(self) -> float:
        """The adapted draft's acceptance length divided by the base draft's, at the first temperature."""
        return self.root["acceptance_ratio"]


def _length_key(draft: str, temperature: float) -> str:
    return f"{draft}.acceptance_length.t{temperature:g}"


def _speedup_key(mode: str, temperature: float) -> str:
    return f"{mode}.speedup.t{temperature:g}"


class PackFields(StageFields):
    """Fields of stage publish."""

    pack: str = Field(description="name@version")
    method: str
    base_draft: str
    base_draft_sha256: str
    target: TargetFingerprint
    num_parameters: int
    num_trainable: int
    metrics: PackMetrics
    measured_on: str = Field("", description="which held-out prompts, in words; empty in older manifests")
    rivals: tuple[RivalScore, ...] = Field((), description="packs that were measured beside it")
    unmeasured_rivals: dict[str, str] = Field({}, description="packs that could not be measured, and why")
    fixed: FixedScores | None = Field(None, description="of this pack and its rivals, by name@version")
    source: str = Field(
        "",
        exclude_if=lambda source: not source,
        description="of one that was pulled: id@commit on the hub, or its directory; it was measured elsewhere",
    )


class PackManifest(PackFields, Record):
    """A published private pack."""

    STAGE = Stage.PUBLISH


class DraftManifest(Frozen):
    """A registered base draft: provenance of one that was trained here, or imported."""

    schema_version: int = SCHEMA_VERSION
    name: str
    version: int
    created_at: int
    hidden_size: int
    vocab_size: int
    tokenizer_sha256: str
    files: tuple[FileEntry, ...]
    trained_on: str = Field(description="target that wrote the text and gave the features")
    num_train_tokens: int
    config: dict[str, Any]
    library_versions: dict[str, str]
    metrics: dict[str, float]
    kind: str = Field("eagle1", description="which class of draft; manifests before there were others name none")
    source: str = Field("", description="of an imported one: its directory, or id@commit on the hub")
    dialect: str | None = Field(None, description="of an imported one: how its file was written")
    assumed: tuple[str, ...] = Field((), description="of an imported one: what its file does not say, and was assumed")
    overrides: dict[str, str] = Field({}, description="of an imported one: fields that were set by hand")
    check: DraftCheck | None = Field(None, description="of an imported one: what was measured before it was registered")
