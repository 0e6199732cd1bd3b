"""OpenAI's fine-tuning jobs: what the `openai` client sends, as an adaptation; a job, as what that client reads."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.fine_tuning_job import Error, Hyperparameters, Method
from openai.types.fine_tuning.supervised_hyperparameters import SupervisedHyperparameters
from openai.types.fine_tuning.supervised_method import SupervisedMethod
from pydantic import BaseModel, Field

from api.jobs.schemas import AdaptationRequest, MetadataKey, MetadataValue, Shallow
from eda_service.config.base import Config, Name
from eda_service.jobstore import Event, Job, Status
from eda_service.records import Stage

OpenAIStatus = Literal["validating_files", "queued", "running", "succeeded", "failed", "cancelled"]
_STATUS: dict[Status, OpenAIStatus] = {
    Status.QUEUED: "queued",
    Status.RUNNING: "running",
    Status.CANCELLING: "running",
    Status.SUCCEEDED: "succeeded",
    Status.FAILED: "failed",
    Status.CANCELLED: "cancelled",
}
_LEVELS: dict[str, Literal["info", "warn", "error"]] = {"warning": "warn", "error": "error"}


class HyperparametersRequest(Config):
    """Numbers, or `auto`: the preset's."""

    n_epochs: Literal["auto"] | Annotated[int, Field(ge=1, le=1000)] = "auto"
    batch_size: Literal["auto"] | Annotated[int, Field(ge=1, le=4096)] = "auto"
    learning_rate_multiplier: Literal["auto"] = Field(
        "auto", description="only `auto`; a rate of your own goes into `config` as train.learning_rate"
    )


class SupervisedRequest(Config):
    """The only kind of method there is."""

    hyperparameters: HyperparametersRequest = HyperparametersRequest()


class FineTuningMethodRequest(Config):
    """OpenAI's `method`."""

    type: Literal["supervised"] = "supervised"
    supervised: SupervisedRequest = SupervisedRequest()


class FineTuningRequest(Config):
    """Body of `POST /v1/fine_tuning/jobs`. `preset`, `adapter`, `base_draft`, `config` and `force` are ours
    (`extra_body`).
    """

    model: str = Field(min_length=1, max_length=512, description="the tuned target whose draft is adapted")
    training_file: str = Field(
        min_length=1,
        max_length=512,
        description="prompts: id of an uploaded file, a path on the service's machine, a dataset id, or `self`",
    )
    validation_file: str | None = Field(None, max_length=512, description="held-out prompts")
    suffix: Name | None = Field(None, description="name at /v1/models")
    seed: int | None = Field(None, ge=0, le=2**31 - 1)
    hyperparameters: HyperparametersRequest = HyperparametersRequest()
    method: FineTuningMethodRequest | None = None
    metadata: dict[MetadataKey, MetadataValue] | None = Field(None, max_length=16)
    preset: str | None = Field(None, pattern=r"^[a-z0-9_]{1,32}$")
    adapter: str | None = Field(None, max_length=512)
    base_draft: str | None = Field(None, max_length=128)
    config: Shallow = Field({}, description="overrides of AdaptConfig, field by field")
    force: bool = Field(False, description="queue it all the same, as `force` of `POST /v1/adaptations`")

    def to_adaptation(self) -> AdaptationRequest:
        """The same wish in our own words."""
        wanted = self.hyperparameters if self.method is None else self.method.supervised.hyperparameters
        eda = {
            ours: value
            for ours, value in (("epochs", wanted.n_epochs), ("batch_size", wanted.batch_size))
            if value != "auto"
        }
        given: dict[str, Any] = {
            "model": self.model,
            "dataset": {"source": self.training_file},
            "eval_dataset": None if self.validation_file is None else {"source": self.validation_file},
            "served_name": self.suffix,
            "seed": self.seed,
            "metadata": self.metadata,
            "preset": self.preset,
            "adapter": self.adapter,
            "base_draft": self.base_draft,
            "config": self.config,
            "method": {"eda": eda} if eda else None,
            "force": self.force,
        }
        return AdaptationRequest.model_validate({key: value for key, value in given.items() if value is not None})


def status_of(job: Job) -> OpenAIStatus:
    """OpenAI's word for a job's state; a job that is being cancelled still runs."""
    if job.status is Status.RUNNING:
        return "validating_files" if job.stage in {None, Stage.VALIDATE} else "running"
    return _STATUS[job.status]


def job_of(job: Job) -> FineTuningJob:
    """A job as OpenAI's object."""
    config = job.adapt_config()
    progress = job.progress or {}
    eta_s, updated_at = progress.get("eta_s"), progress.get("updated_at")
    numbers = {"batch_size": config.train.batch_size, "n_epochs": config.train.epochs}
    return FineTuningJob(
        id=job.id,
        object="fine_tuning.job",
        created_at=job.created_at,
        finished_at=job.finished_at,
        error=None if job.error is None else Error(**{key: job.error.get(key) for key in ("code", "message", "param")}),
        fine_tuned_model=config.public_name if job.status is Status.SUCCEEDED else None,
        hyperparameters=Hyperparameters(**numbers),
        method=Method(
            type="supervised", supervised=SupervisedMethod(hyperparameters=SupervisedHyperparameters(**numbers))
        ),
        model=config.target.adapter or config.target.model,
        organization_id=job.owner,
        result_files=[],
        seed=config.seed,
        status=status_of(job),
        training_file=config.dataset.source,
        validation_file=None if config.eval_dataset is None else config.eval_dataset.source,
        estimated_finish=None if eta_s is None or updated_at is None else int(updated_at + eta_s),
        metadata=job.labels,
    )


def event_of(event: Event) -> FineTuningJobEvent:
    """An event as OpenAI's object; our type and stage are in `data`."""
    return FineTuningJobEvent(
        id=f"evt_{event.id}",
        object="fine_tuning.job.event",
        created_at=event.at,
        level=_LEVELS.get(event.level, "info"),
        message=event.message,
        type="message",
        data={"type": event.type, "stage": event.stage},
    )


class FineTuningJobList(BaseModel):
    """A page of jobs, newest first."""

    object: Literal["list"] = "list"
    data: list[FineTuningJob]
    has_more: bool


class FineTuningEventList(BaseModel):
    """A page of events, newest first."""

    object: Literal["list"] = "list"
    data: list[FineTuningJobEvent]
    has_more: bool
