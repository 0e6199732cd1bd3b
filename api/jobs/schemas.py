"""Bodies of the jobs API: what callers send (strict and bounded) and what they get."""

from __future__ import annotations

import time
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from api.jobs.schemas_outcome import ExpectedTimeBody, RemainingBody
from eda_service.config.base import Config, Name
from eda_service.config.job import AdaptConfig, DatasetSpec, EngineKind, EvalConfig, Method, Selector
from eda_service.jobstore import Event, Job
from eda_service.jobstore.jobs.status import Status
from eda_service.planning.outcome import Outcome
from eda_service.planning.placement import Strategy
from eda_service.records import STAGES, Stage
from eda_service.storage.published.packs import measured_on

MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]


MAX_DEPTH = 16


def _shallow(value: dict[str, Any]) -> dict[str, Any]:
    """The value, whose checks further on recurse into it."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [each for part in level for each in (part.values() if isinstance(part, dict) else part)]
        level = [each for each in level if isinstance(each, dict | list)]
        if not level:
            return value
    raise ValueError(f"is nested more than {MAX_DEPTH} deep")


Shallow = Annotated[dict[str, Any], AfterValidator(_shallow)]


class EdaHyperparameters(Config):
    """The knobs people turn; everything else is reachable through `config`. None leaves the preset's or the default."""

    keep_fraction: float | None = Field(None, gt=0.0, le=1.0, description="selection.keep_fraction")
    quantile: float | None = Field(None, ge=0.0, le=1.0, description="selection.quantile")
    pca_dim: int | None = Field(None, ge=1, le=4096, description="selection.pca_dim")
    selector: Selector | None = Field(None, description="selection.method")
    private_width_fraction: float | None = Field(None, gt=0.0, le=4.0, description="train.private_width_fraction")
    epochs: int | None = Field(None, ge=1, le=1000, description="train.epochs")
    batch_size: int | None = Field(None, ge=1, le=4096, description="train.batch_size")
    learning_rate: float | None = Field(None, gt=0.0, le=1.0, description="train.learning_rate")
    unroll_steps: int | None = Field(None, ge=1, le=8, description="train.loss.unroll_steps")


class MethodRequest(Config):
    """How to adapt."""

    type: Method = Field(Method.EDA, description="what is trained")
    eda: EdaHyperparameters = EdaHyperparameters()


class WebhookRequest(Config):
    """Whom to tell (Standard Webhooks)."""

    url: str = Field(min_length=9, max_length=2048, description="https, a public address")
    secret: str | None = Field(
        None, pattern=r"^whsec_[A-Za-z0-9+/]{32,88}={0,2}$", description="signs each message; None: unsigned"
    )


class JobRequest(Config):
    """What a request for a job says of the job itself, whatever it is to do.

    Attributes:
        STAGES: Of the jobs that such a request makes.
    """

    STAGES: ClassVar[tuple[Stage, ...]]

    metadata: dict[MetadataKey, MetadataValue] = Field({}, max_length=16, description="the caller's own pairs")
    priority: int = Field(50, ge=0, le=100, description="higher runs first")
    force: bool = Field(
        False,
        description="queue it all the same: although a live job has the same content, the disk has less free than it "
        "may need, the cluster has fewer CPUs or GPUs than it asks for, a tracker is not installed here, or the model "
        "hub cannot be asked whether it has what is named",
    )
    webhook: WebhookRequest | None = Field(None, description="told when the job ends")
    stage_deadlines: dict[Stage, Annotated[int, Field(ge=1, le=30 * 86_400)]] = Field(
        {}, description="longest run of a stage in seconds, after which the job fails; default: the service's"
    )

    @field_validator("stage_deadlines")
    @classmethod
    def _of_its_stages(cls, value: dict[Stage, int]) -> dict[Stage, int]:
        odd = [stage.value for stage in value if stage not in cls.STAGES]
        if odd:
            raise ValueError(f"{', '.join(odd)} is no stage of such a job; its stages are {', '.join(cls.STAGES)}")
        return value


class AdaptationRequest(JobRequest):
    """Body of `POST /v1/adaptations`. Later parts win: preset, then these fields, then `config`."""

    STAGES = STAGES

    model: str | None = Field(None, min_length=1, max_length=512, description="target: id, shipped name or directory")
    revision: str | None = Field(None, max_length=128, description="branch, tag or commit of the model")
    adapter: str | None = Field(None, max_length=512, description="LoRA adapter on top of the model")
    base_draft: str | None = Field(None, max_length=128, description="name@version of a registered base draft")
    served_name: Name | None = Field(None, description="name at /v1/models")
    dataset: DatasetSpec | None = Field(None, description="domain prompts; only the fields given replace the preset's")
    eval_dataset: DatasetSpec | None = Field(None, description="held-out prompts")
    evaluation: EvalConfig | None = Field(None, description="evaluation settings; only the fields given are replaced")
    seed: int | None = Field(None, ge=0, le=2**31 - 1, description="root of every random stream")
    method: MethodRequest = MethodRequest()
    preset: str | None = Field(
        None, pattern=r"^[a-z0-9_]{1,32}$", description="demo, paper, paper_7b, 8b, 70b, 235b or best"
    )
    deploy: bool | None = Field(None, description="false: publish the pack and serve what is served (deploy.enabled)")
    min_gain: float | None = Field(None, ge=0.0, le=10.0, description="deploy.min_gain")
    config: Shallow = Field({}, description="overrides of AdaptConfig, field by field")
    dry_run: bool = Field(False, description="check and estimate, store nothing")


class ChangeRequest(Config):
    """Body of `POST /v1/adaptations/{id}`: what may be changed while a job is queued."""

    priority: int = Field(ge=0, le=100, description="higher runs first")


class StageNeedBody(BaseModel):
    """What one stage asks Ray for, and what it takes."""

    stage: Stage
    placement: Strategy = Field(
        description="driver: the job's own process; task: one Ray task; pool: actors, each wherever there is room; "
        "pack, spread: a placement group"
    )
    workers: int
    cpus: float = Field(description="logical CPUs of each worker")
    gpus: int = Field(description="of each worker")
    threads: int = Field(description="of each worker")
    memory_bytes: int = Field(description="of one device, at most")
    disk_bytes: int = Field(description="written, at the expected lengths")
    seconds: float
    host_memory_bytes: int = Field(0, description="of one worker's machine beside the devices, at most; 0: little")
    nodes: int = Field(1, description="that each worker takes, with the same number of its GPUs on each")
    seconds_low: float | None = Field(None, description="at least, as it is expected")
    seconds_high: float | None = Field(None, description="at most, as it is expected")


class TargetSplitBody(BaseModel):
    """How vLLM parts the target of a job over devices."""

    engine: EngineKind
    devices: int = Field(description="of one engine")
    nodes: int = Field(description="that they are on")
    weight_bytes: int = Field(description="on each device")
    cache_bytes: int = Field(description="keys and values of a full batch, on each device")
    room_bytes: int | None = Field(description="of each device that vLLM may take; null: not known")


class EstimateBody(BaseModel):
    """What a job will need, from the model of `eda plan`; disk_bytes is an upper bound."""

    object: Literal["adaptation.estimate"] = "adaptation.estimate"
    device: str = Field(description="what its workers compute on; h100 is assumed where it uses GPUs")
    stages: list[StageNeedBody]
    disk_bytes: int
    free_disk_bytes: int | None
    num_samples: int
    num_train_steps: int
    trainable_parameters: int
    seconds: dict[str, float] = Field(description="start, generate, train, evaluate and total")
    fits: bool = Field(description="disk and cluster have room; a job that does not fit is refused unless it is forced")
    warnings: list[str]
    measured_on: str = Field("", description="the prompts of its evaluation: how many, and of what")
    target: TargetSplitBody | None = Field(
        None, description="how vLLM parts its target; null: the project's own engine runs it"
    )
    expected: ExpectedTimeBody | None = Field(None, description="how long the whole takes, as a range")


class ProgressBody(BaseModel):
    """Progress of the current stage."""

    model_config = ConfigDict(extra="ignore")

    percent: float
    step: int
    total_steps: int
    eta_s: int | None = None
    updated_at: int


class JobErrorBody(BaseModel):
    """Why a job failed."""

    code: str
    message: str
    param: str | None = None
    retryable: bool = False


class MethodBody(BaseModel):
    """How the job adapts."""

    type: Method
    eda: dict[str, Any]


class AdaptationBody(BaseModel):
    """One job."""

    id: str
    object: Literal["adaptation.job"] = "adaptation.job"
    created_at: int
    started_at: int | None
    finished_at: int | None
    status: Status
    stage: str | None
    progress: ProgressBody | None
    model: str
    model_revision: str | None
    adapter: str | None
    base_draft: str
    served_name: str
    dataset: DatasetSpec
    seed: int
    method: MethodBody
    metadata: dict[str, str]
    owner: str
    stage_deadlines: dict[str, int]
    webhook_url: str | None
    attempt: int
    max_attempts: int
    priority: int
    origin: str
    ray_submission_id: str | None
    result_pack: str | None
    report: str | None
    measured_on: str = Field(description="which held-out prompts the evaluation is made on, in words")
    waits_for: str | None = Field(description="why it does not start, where the cluster does not hold it")
    elapsed_s: int | None = Field(None, description="since it was started, until now or its end; null: it was not")
    remaining: RemainingBody | None = Field(None, description="of a running job, as far as it is known")
    outcome: Outcome | None = Field(None, description="of a job that has succeeded; its disk is looked up for one job")
    error: JobErrorBody | None
    config: AdaptConfig

    @classmethod
    def of(cls, job: Job, *, outcome: Outcome | None = None, remaining: RemainingBody | None = None) -> AdaptationBody:
        """The wire form of a stored job."""
        config = job.adapt_config()
        return cls(
            **job.model_dump(
                include={
                    "id", "created_at", "started_at", "finished_at", "status", "stage", "attempt", "max_attempts",
                    "priority", "origin", "result_pack", "owner", "webhook_url",
                }
            ),
            progress=progress_of(job),
            waits_for=waits_for(job),
            elapsed_s=elapsed_s(job),
            remaining=remaining,
            outcome=outcome,
            error=error_of(job),
            stage_deadlines={stage: int(seconds) for stage, seconds in job.stage_deadlines.items()},
            model=config.target.model,
            model_revision=config.target.revision,
            adapter=config.target.adapter,
            base_draft=config.base_draft,
            served_name=config.public_name,
            dataset=config.dataset,
            seed=config.seed,
            method=_method(config),
            metadata=job.labels,
            ray_submission_id=job.ray_submission_id if job.origin == "api" and job.submitted_at else None,
            report=f"/v1/adaptations/{job.id}/report" if job.status is Status.SUCCEEDED else None,
            measured_on=measured_on(config),
            config=config,
        )  # fmt: skip


class EventBody(BaseModel):
    """One event of a job."""

    id: str
    object: Literal["adaptation.job.event"] = "adaptation.job.event"
    created_at: int
    level: str
    type: str
    message: str
    stage: str | None

    @classmethod
    def of(cls, event: Event) -> EventBody:
        """The wire form of a stored event."""
        return cls(
            id=f"evt_{event.id}",
            created_at=event.at,
            level=event.level,
            type=event.type,
            message=event.message,
            stage=event.stage,
        )


class AdaptationList(BaseModel):
    """A page of jobs, newest first."""

    object: Literal["list"] = "list"
    data: list[AdaptationBody]
    has_more: bool
    first_id: str | None
    last_id: str | None


class EventList(BaseModel):
    """A page of events, oldest first."""

    object: Literal["list"] = "list"
    data: list[EventBody]
    has_more: bool
    first_id: str | None
    last_id: str | None


class LogsBody(BaseModel):
    """The last lines of one stage's log."""

    object: Literal["adaptation.job.logs"] = "adaptation.job.logs"
    id: str
    stage: str | None
    lines: list[str]
    next: int = Field(description="byte offset behind these lines; give it as `after` to read on")


class HealthBody(BaseModel):
    """State of the service; of its parts only for who may read jobs, once there are keys."""

    status: Literal["ok", "degraded"]
    version: str | None = None
    ray_reachable: bool | None = None
    serve: str | None = Field(None, description="Serve's word for the application; null: nothing is deployed")
    dispatcher_lag_s: float | None = Field(
        None, description="seconds since the dispatcher last finished a look at everything"
    )
    dispatcher_pass_s: float | None = Field(None, description="what that look took")
    jobs: dict[str, int] | None = Field(None, description="how many there are of each status")


def progress_of(job: Job) -> ProgressBody | None:
    """Its last heartbeat."""
    try:
        return None if job.progress is None else ProgressBody.model_validate(job.progress)
    except ValidationError:  # the next heartbeat replaces it
        return None


def waits_for(job: Job) -> str | None:
    """Why it does not start; nothing once it has ended."""
    return None if job.is_terminal else job.waits_for


def elapsed_s(job: Job) -> int | None:
    """Seconds since a job was started, until now or its end."""
    if job.started_at is None:
        return None
    return max(0, (int(time.time()) if job.finished_at is None else job.finished_at) - job.started_at)


def error_of(job: Job) -> JobErrorBody | None:
    """Why it failed; of a row that cannot be read, what is wrong with it."""
    if job.error is None and job.unreadable is not None:
        return JobErrorBody(code="artifact_corrupt", message=f"its row cannot be read: {job.unreadable}")
    return None if job.error is None else JobErrorBody.model_validate(job.error)


def _method(config: AdaptConfig) -> MethodBody:
    selection, train = config.selection, config.train
    eda = EdaHyperparameters(
        keep_fraction=selection.keep_fraction,
        quantile=selection.quantile,
        pca_dim=selection.pca_dim,
        selector=selection.method,
        private_width_fraction=train.private_width_fraction,
        epochs=train.epochs,
        batch_size=train.batch_size,
        learning_rate=train.learning_rate,
        unroll_steps=train.loss.unroll_steps,
    )
    return MethodBody(type=train.method, eda=eda.model_dump(mode="json"))
