"""What `job.json` keeps of a job's row, so that the row can be made again when it is lost."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class JobRowFields(BaseModel):
    """What a job's row says beside its config, as far as the job needs it to go on when the row is lost.

    Attributes:
        owner: Whose it is.
        labels: The owner's own pairs.
        priority: In the queue.
        max_attempts: Before a retryable failure is final.
        stage_deadlines: Stage to its longest time, in seconds.
        webhook: Its URL and its sealed secret: a run directory holds no secret in plain.
        content_sha256: Hash of what was asked for.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    owner: str = Field("local", min_length=1, max_length=64)
    labels: dict[str, str] = {}
    priority: int = 50
    max_attempts: int = Field(1, ge=1)
    stage_deadlines: dict[str, float] = {}
    webhook: dict[str, Any] | None = None
    content_sha256: str = Field("", max_length=64)
