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


class Deployment(Row):
    """A pair that Serve must offer: `name` at /v1/models."""

    name: str
    target: dict[str, Any] = Field(description="TargetSpec as JSON")
    base_draft: str
    pack: str
    job_id: str
    updated_at: int
