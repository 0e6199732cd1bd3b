"""The facts of a job's row that `job.json` keeps, so that a lost row can be restored."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class JobRowFields(BaseModel):
    """The contents of a job's row beside its config, as far as the job needs them to continue if the row is lost.

    Attributes:
        owner: Owner of the job.
        labels: Key-value pairs of the owner.
        priority: Priority in the queue.
        max_attempts: Largest number of attempts; after it a retryable failure is final.
        stage_deadlines: Longest time of each stage, in seconds.
        webhook: URL and sealed secret of the webhook: a run directory holds no secret in plain text.
        content_sha256: Hash of the request's content.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    owner: str = Field("local", min_length=1, max_length=64)
    labels: dict[str, str] = {}
    priority: int = 50
    max_attempts: int = Field(1, ge=1)
    stage_deadlines: dict[str, float] = {}
    webhook: dict[str, Any] | None = None
    content_sha256: str = Field("", max_length=64)
