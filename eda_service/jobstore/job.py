"""What the store hands out: frozen values, detached from the database."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from eda_service.config import AdaptConfig
from eda_service.jobstore.status import TERMINAL, Status

Origin = Literal["api", "ray"]


class Row(BaseModel):
    """A frozen copy of one database row."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class Job(Row):
    """One adaptation. Times are whole seconds since the epoch."""

    seq: int = Field(description="insertion order; the cursor of lists and the tie-break of the queue")
    id: str
    status: Status
    origin: Origin = Field(description="api: queued here; ray: started on the cluster by hand and tracked by its files")
    stage: str | None
    progress: dict[str, Any] | None
    config: dict[str, Any] = Field(description="AdaptConfig as JSON")
    labels: dict[str, str] = Field(description="the caller's `metadata`")
    priority: int
    attempt: int
    max_attempts: int
    created_at: int
    started_at: int | None
    finished_at: int | None
    not_before: int = Field(description="earliest start of the next attempt (back-off)")
    submitted_at: int | None = Field(description="when Ray accepted this attempt; None: it has not")
    events_read: int = Field(description="lines of events.jsonl already imported")
    result_pack: str | None
    error: dict[str, Any] | None
    owner: str = Field(default="local", description="whose job it is; others cannot see it")
    lease_token: int = Field(default=0, description="fencing token: grows each time the job gets another dispatcher")
    ray_session: str | None = Field(default=None, description="the Ray session that accepted this attempt")
    stage_deadlines: dict[str, float] = Field(default_factory=dict, description="stage to its longest time, seconds")
    webhook_url: str | None = Field(default=None, description="where the end of the job is told")
    cpus: float = Field(default=0.0, description="logical CPUs that it asks Ray for at a time, at most; 0: not known")
    gpus: int = Field(default=0, description="GPUs that it asks Ray for at a time, at most")

    @property
    def ray_submission_id(self) -> str:
        """Ray's name for the current attempt."""
        return f"{self.id}-a{self.attempt}"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing will happen any more unless somebody retries."""
        return self.status in TERMINAL

    def adapt_config(self) -> AdaptConfig:
        """The job's config, parsed."""
        return AdaptConfig.model_validate(self.config)


class Event(Row):
    """Something that happened to a job."""

    id: int
    job_id: str
    at: int
    level: str
    type: str
    message: str
    stage: str | None


class KeyInfo(Row):
    """An API key without its secret."""

    id: str
    owner: str
    name: str
    scopes: list[str]
    created_at: int
    requests_per_minute: int | None = Field(default=None, description="at the endpoint; None: the service's limit")
    concurrent_requests: int | None = Field(default=None, description="at the endpoint; None: the service's limit")
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None = Field(description="exact to a minute")


class Delivery(Row):
    """A webhook that is due. Its id stays the same in every try, so a receiver can tell a repeated one."""

    id: int
    job_id: str
    url: str
    secret: str | None = Field(repr=False)
    payload: dict[str, Any]
    attempts: int = Field(description="tries so far, all failed")
