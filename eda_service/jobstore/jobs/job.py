"""The values of the store: frozen, detached from the database."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from eda_service.config.job import AdaptConfig
from eda_service.config.tasks import JobKind, Task, kind_of, parse_task
from eda_service.errors import ConflictError
from eda_service.ids import JOB_ID_PATTERN
from eda_service.jobstore.jobs.status import TERMINAL, Status
from eda_service.jobstore.row import Count, Number, Row, Seconds, parses, parses_by

Origin = Literal["api", "ray"]
UNREADABLE = "unreadable"
"""Placeholder for a text that cannot be read."""

OneLine = Annotated[str, StringConstraints(pattern=r"^[^\r\n\x00]*$")]
JobId = Annotated[str, StringConstraints(pattern=f"^{JOB_ID_PATTERN}$")]
"""Id of a job, which is also a directory's name and a part of URLs."""
_Deadline = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class _Heartbeat(BaseModel):
    """The content of a heartbeat, each part optional."""

    stage: str | None = None
    percent: Annotated[float, Field(allow_inf_nan=False)] | None = None
    step: int | None = None
    total_steps: int | None = None
    eta_s: int | None = None
    updated_at: Seconds | None = None
    stage_started_at: Seconds | None = None
    attempt: int | None = None
    pid: int | None = None


def _heartbeat_or_none(value: Any) -> Any:
    """Return a heartbeat if it can be read; otherwise None, because the next heartbeat replaces it."""
    try:
        _Heartbeat.model_validate(value)
    except ValidationError:
        return None
    return value


class _Failure(BaseModel):
    """The fields that every error of a job has."""

    code: str
    message: str


def _parse_as(kind: JobKind | None, config: Mapping[str, Any]) -> None:
    """Check that a job's config parses; if its kind is known, it must be of that kind."""
    found = kind_of(parse_task(config))
    if kind is not None and found is not kind:
        raise ValueError(f"it is of kind {found.value} in a job of kind {kind.value}")


class Job(Row):
    """One job of any kind. Times are whole seconds since the epoch."""

    PLACEHOLDERS: ClassVar[Mapping[str, Any]] = {
        "seq": 0,
        "id": UNREADABLE,
        "kind": JobKind.ADAPT,
        "status": Status.FAILED,
        "origin": "api",
        "config": {"target": {"model": UNREADABLE}},
        "labels": {},
        "priority": 0,
        "attempt": 0,
        "max_attempts": 1,
        "created_at": 0,
        "not_before": 0,
        "events_read": 0,
        "owner": "",
    }

    seq: int = Field(description="insertion order; the cursor of lists and the tie-break of the queue")
    id: JobId
    kind: JobKind = JobKind.ADAPT
    status: Status
    origin: Origin = Field(description="api: queued here; ray: started on the cluster by hand and tracked by its files")
    stage: str | None
    progress: Annotated[dict[str, Any] | None, BeforeValidator(_heartbeat_or_none)]
    config: dict[str, Any] = Field(description="the config of its kind as JSON")
    labels: dict[str, str] = Field(description="the caller's `metadata`")
    priority: Number
    attempt: Number
    max_attempts: Number
    created_at: Seconds
    started_at: Seconds | None
    finished_at: Seconds | None
    not_before: Seconds = Field(description="earliest start of the next attempt (back-off)")
    submitted_at: Seconds | None = Field(description="when Ray accepted this attempt; None: it has not")
    events_read: Count = Field(description="lines of events.jsonl already imported")
    result_pack: str | None = Field(description="of an adaptation: the pack that it published, name@version")
    result: str | None = Field(
        default=None, description="of an import: the draft, name@version; of a measurement: its id"
    )
    error: Annotated[dict[str, Any], AfterValidator(parses(_Failure))] | None
    owner: str = Field(default="local", description="whose job it is; others cannot see it")
    lease_until: Seconds = Field(default=0, description="when the lease ends, unless it is renewed")
    lease_token: Number = Field(default=0, description="fencing token: grows each time the job gets another dispatcher")
    ray_session: str | None = Field(default=None, description="the Ray session that accepted this attempt")
    stage_deadlines: dict[str, _Deadline] = Field(
        default_factory=dict, description="stage to its longest time, seconds"
    )
    webhook_url: str | None = Field(default=None, description="where the end of the job is told")
    cpus: float = Field(default=0.0, description="logical CPUs that it asks Ray for at a time, at most; 0: not known")
    gpus: Number = Field(default=0, description="GPUs that it asks Ray for at a time, at most")
    node_cpus: float = Field(default=0.0, description="logical CPUs of its largest process on one node; 0: not known")
    node_gpus: Number = Field(default=0, description="GPUs of its largest process on one node")
    waits_for: str | None = Field(default=None, description="why it does not start, where the cluster does not hold it")

    @property
    def ray_submission_id(self) -> str:
        """Ray's submission id of the current attempt."""
        return f"{self.id}-a{self.attempt}"

    @property
    def is_terminal(self) -> bool:
        """Whether the state is final unless somebody retries the job."""
        return self.status in TERMINAL

    @property
    def outcome(self) -> str | None:
        """The result of the job of any kind: a pack, a draft or a measurement."""
        return self.result_pack if self.kind is JobKind.ADAPT else self.result

    @field_validator("config")
    @classmethod
    def _of_its_kind(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if value == cls.PLACEHOLDERS["config"]:
            return value  # in a row of any kind whose own result cannot be read
        checked: dict[str, Any] = parses_by(partial(_parse_as, info.data.get("kind")))(value)
        return checked

    def task(self) -> Task:
        """Parse the job's config."""
        return parse_task(self.config)

    def adapt_config(self) -> AdaptConfig:
        """Parse the config of an adaptation.

        Raises:
            ConflictError: The job is of another kind.
        """
        task = self.task()
        if not isinstance(task, AdaptConfig):
            raise ConflictError(f"job {self.id} is no adaptation but of kind {self.kind.value}", param="id")
        return task


class Event(Row):
    """Something that happened to a job."""

    PLACEHOLDERS: ClassVar[Mapping[str, Any]] = {
        "id": 0, "job_id": UNREADABLE, "at": 0, "level": "error", "type": UNREADABLE, "message": UNREADABLE
    }  # fmt: skip

    id: int
    job_id: str
    at: Seconds
    level: str
    type: OneLine
    message: str
    stage: str | None


class KeyInfo(Row):
    """An API key without its secret."""

    PLACEHOLDERS: ClassVar[Mapping[str, Any]] = {
        "id": UNREADABLE, "owner": UNREADABLE, "name": UNREADABLE, "scopes": [], "created_at": 0
    }  # fmt: skip

    id: str
    owner: str
    name: str
    scopes: list[str]
    created_at: Seconds
    requests_per_minute: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="at the endpoint; None: the service's limit"
    )
    concurrent_requests: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="at the endpoint; None: the service's limit"
    )
    expires_at: Seconds | None
    revoked_at: Seconds | None
    last_used_at: Seconds | None = Field(description="exact to a minute")


class StoredFile(Row):
    """A prompt file that somebody has uploaded."""

    PLACEHOLDERS: ClassVar[Mapping[str, Any]] = {
        "id": UNREADABLE, "owner": UNREADABLE, "filename": UNREADABLE, "purpose": "fine-tune", "size_bytes": 0,
        "sha256": "", "num_prompts": 0, "num_skipped": 0, "created_at": 0,
    }  # fmt: skip

    id: str
    owner: str
    filename: OneLine
    purpose: str
    size_bytes: int = Field(ge=0)
    sha256: str
    num_prompts: int = Field(ge=0, description="different ones")
    num_skipped: int = Field(ge=0, description="rows that hold no prompt")
    created_at: Seconds


class Delivery(Row):
    """A webhook to be sent. Its id is the same at every attempt, so that a receiver can recognise a repetition."""

    PLACEHOLDERS: ClassVar[Mapping[str, Any]] = {
        "id": 0, "job_id": UNREADABLE, "url": "", "payload": {}, "attempts": 0
    }  # fmt: skip

    id: int
    job_id: str
    url: str
    secret: str | None = Field(default=None, repr=False)
    payload: dict[str, Any]
    attempts: Count = Field(description="tries so far, all failed")
