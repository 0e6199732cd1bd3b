"""Bodies of jobs of any kind, of drafts and of measurements."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from api.jobs.schemas import JobErrorBody, JobRequest, ProgressBody, error_of, progress_of, waits_for
from eda_service.config.base import Name
from eda_service.config.job import DatasetSpec, EngineKind, TargetSpec, Temperature
from eda_service.config.tasks import MAX_CHECK_PROMPTS, FieldName, FieldValue, ImportConfig, JobKind, MeasureConfig
from eda_service.config.vllm import VllmSpec
from eda_service.draft_check import DraftCheck
from eda_service.jobstore import Job
from eda_service.jobstore.jobs.job import UNREADABLE
from eda_service.jobstore.jobs.status import Status
from eda_service.measurement import Measurement
from eda_service.records import Stage
from eda_service.task_records import MeasureRecord

ModelName = Annotated[str, Field(min_length=1, max_length=512)]


class ImportRequest(JobRequest):
    """Body of `POST /v1/drafts`."""

    STAGES: ClassVar[tuple[Stage, ...]] = (Stage.READ, Stage.CHECK, Stage.PUBLISH)

    source: ModelName = Field(description="the draft: a directory, or an id on the model hub")
    source_revision: str | None = Field(None, max_length=128, description="of the source: branch, tag or commit")
    model: ModelName = Field(description="the base target that it is for: id, shipped name or directory")
    revision: str | None = Field(None, max_length=128, description="branch, tag or commit of the model")
    name: Name | None = Field(None, description="to register it under; default: the last part of the source")
    overrides: dict[FieldName, FieldValue] = Field(
        {}, max_length=32, description="fields of the draft's shape that are set by hand, as text"
    )
    check: bool = Field(True, description="measure it over answers of the base target before it is registered")
    num_check_prompts: int = Field(20, ge=1, le=MAX_CHECK_PROMPTS, description="answers of the check")
    use_gpu: bool = Field(False, description="reserve a GPU for the check")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="root of every random stream")

    def to_config(self) -> ImportConfig:
        """The job's config."""
        return ImportConfig(
            source=self.source,
            revision=self.source_revision,
            target=TargetSpec(model=self.model, revision=self.revision),
            **self.model_dump(include={"name", "overrides", "check", "num_check_prompts", "use_gpu", "seed"}),
        )


class MeasureRequest(JobRequest):
    """Body of `POST /v1/measurements`."""

    STAGES: ClassVar[tuple[Stage, ...]] = (Stage.MEASURE,)

    model: ModelName = Field(description="target: id, shipped name or directory")
    revision: str | None = Field(None, max_length=128, description="branch, tag or commit of the model")
    adapter: str | None = Field(None, max_length=512, description="LoRA adapter on top of the model")
    draft: str = Field(min_length=1, max_length=128, description="name@version of a registered draft")
    pack: str | None = Field(None, min_length=1, max_length=128, description="name@version of a pack over it")
    base_model: ModelName | None = Field(None, description="the draft's own target, to say what was lost")
    dataset: DatasetSpec | None = Field(None, description="prompts; default: 32 of the target's own")
    max_new_tokens: int = Field(96, ge=8, le=32_768, description="answer cap in tokens")
    num_draft_tokens: int = Field(5, ge=1, le=64, description="chain length")
    temperatures: Annotated[tuple[Temperature, ...], Field(min_length=1, max_length=8)] = Field(
        (0.0, 1.0), description="each once"
    )
    check: bool = Field(False, description="make the check of an import instead")
    engine: EngineKind | None = Field(None, description="who runs the target; default: vLLM where it is too large")
    tensor_parallel_size: int = Field(1, ge=1, le=64, description="GPUs, or CPU ranks, of engine vllm")
    use_gpu: bool = Field(False, description="reserve a GPU")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="root of every random stream")

    def to_config(self) -> MeasureConfig:
        """The job's config.

        Raises:
            ValidationError: A temperature stands there twice.
        """
        given = {"dataset": self.dataset} if self.dataset is not None else {}
        return MeasureConfig(
            target=TargetSpec(
                model=self.model,
                revision=self.revision,
                adapter=self.adapter,
                engine=self.engine,
                vllm=VllmSpec(tensor_parallel_size=self.tensor_parallel_size),
            ),
            base_target=None if self.base_model is None else TargetSpec(model=self.base_model),
            **given,
            **self.model_dump(
                include={
                    "draft", "pack", "max_new_tokens", "num_draft_tokens", "temperatures", "check", "use_gpu", "seed",
                }
            ),
        )  # fmt: skip


class JobBody(BaseModel):
    """One job of any kind."""

    id: str
    object: Literal["job"] = "job"
    kind: JobKind
    created_at: int
    started_at: int | None
    finished_at: int | None
    status: Status
    stage: str | None
    progress: ProgressBody | None
    model: str = Field(description="the target that it is about")
    metadata: dict[str, str]
    owner: str
    attempt: int
    max_attempts: int
    priority: int
    origin: str
    result: str | None = Field(description="a pack or a draft as name@version, or a measurement's id")
    waits_for: str | None = Field(description="why it does not start, where the cluster does not hold it")
    error: JobErrorBody | None
    config: dict[str, Any] = Field(description="of its kind")

    @classmethod
    def of(cls, job: Job) -> JobBody:
        """The wire form of a stored job."""
        return cls(
            **job.model_dump(
                include={
                    "id", "kind", "created_at", "started_at", "finished_at", "status", "stage", "attempt",
                    "max_attempts", "priority", "origin", "owner",
                }
            ),
            progress=progress_of(job),
            model=job.task().target.model,
            metadata=job.labels,
            result=job.outcome,
            waits_for=waits_for(job),
            error=error_of(job),
            config=job.task().model_dump(mode="json"),
        )  # fmt: skip


class DeletedJobBody(BaseModel):
    """A job that is gone."""

    id: str
    object: Literal["job.deleted"] = "job.deleted"
    deleted: Literal[True] = True
    freed_bytes: int = Field(description="of its run directory; 0 on storage by URL, where it is not counted")


class JobList(BaseModel):
    """A page of jobs, newest first."""

    object: Literal["list"] = "list"
    data: list[JobBody]
    has_more: bool
    first_id: str | None
    last_id: str | None


class DraftBody(BaseModel):
    """One version of a base draft; null where its manifest does not say."""

    id: str = Field(description="name@version")
    object: Literal["draft"] = "draft"
    name: str
    version: int
    created_at: int | None
    shipped: bool = Field(description="it comes with the package")
    kind: str | None
    model: str | None = Field(description="the base target that it is for")
    source: str | None = Field(description="of an imported one: its directory, or id@commit on the hub")
    dialect: str | None = Field(description="of an imported one: how its file was written")
    acceptance_length: float | None = Field(description="of the check at its import, as its file declares it")
    best_acceptance_length: float | None = Field(description="of the best reading in that check")
    best_reading: dict[str, str] | None = Field(description="what differs in it; empty: nothing does")
    size_bytes: int | None
    job_id: str | None = Field(description="the job that imported it")


class DraftDetail(DraftBody):
    """The same with what was assumed, set by hand and measured."""

    assumed: list[str] = Field(description="what its file does not say, and was assumed")
    overrides: dict[str, str] = Field(description="fields that were set by hand")
    check: DraftCheck | None
    packs: list[str] = Field(description="packs over it, name@version")
    trained_on: str | None
    metrics: dict[str, float]


class DeletedDraftBody(BaseModel):
    """A draft that is gone."""

    id: str
    object: Literal["draft"] = "draft"
    deleted: Literal[True] = True


class DraftList(BaseModel):
    """A page of drafts, by name and version."""

    object: Literal["list"] = "list"
    data: list[DraftBody]
    has_more: bool
    first_id: str | None
    last_id: str | None


class MeasurementBody(JobBody):
    """A measurement: its job, and its result once that is there."""

    draft: str
    pack: str | None
    measurement: Measurement | None

    @classmethod
    def with_result(cls, job: Job, record: MeasureRecord | None) -> MeasurementBody:
        """The wire form of a measurement."""
        task = job.task()
        draft, pack = (task.draft, task.pack) if isinstance(task, MeasureConfig) else (UNREADABLE, None)
        measurement = None if record is None else record.measurement
        return cls(**JobBody.of(job).model_dump(), draft=draft, pack=pack, measurement=measurement)
