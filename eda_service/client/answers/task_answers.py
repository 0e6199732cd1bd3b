"""What the service answers about jobs of every kind, drafts and measurements; unknown fields are ignored."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from eda_service.client.answers.answers import TERMINAL, Answer, JobError, Progress


class Job(Answer):
    """One job of any kind; `result` is a pack or a draft as name@version, or a measurement's id."""

    id: str
    kind: str
    status: str
    stage: str | None = None
    progress: Progress | None = None
    model: str
    created_at: int
    started_at: int | None = None
    finished_at: int | None = None
    attempt: int = 0
    max_attempts: int = 0
    priority: int = 50
    metadata: dict[str, str] = Field(default_factory=dict)
    result: str | None = None
    waits_for: str | None = None
    error: JobError | None = None
    config: dict[str, Any] = Field(default_factory=dict)

    @property
    def is_terminal(self) -> bool:
        """Whether the job will not change any more by itself."""
        return self.status in TERMINAL


class DeletedJob(Answer):
    """A job that is gone; `freed_bytes` is 0 on storage by URL."""

    id: str
    freed_bytes: int = 0


class Reading(Answer):
    """One way to read a draft's files, and its agreement with the target by position."""

    overrides: dict[str, str] = Field(default_factory=dict)
    agreement: tuple[float, ...] = ()
    acceptance_length: float = 1.0

    @property
    def name(self) -> str:
        """In words."""
        return ", ".join(f"{key}={value}" for key, value in self.overrides.items()) or "as declared"


class DraftCheck(Answer):
    """The check of an imported draft: its readings, or why there are none."""

    skipped: str | None = None
    num_prompts: int = 0
    num_positions: int = 0
    declared: Reading | None = None
    others: tuple[Reading, ...] = ()
    coverage: float | None = None
    embedding_cosine: float | None = None

    @property
    def readings(self) -> tuple[Reading, ...]:
        """The declared one first."""
        return () if self.declared is None else (self.declared, *self.others)


class Draft(Answer):
    """One version of a base draft. Only `get` gives the fields from `assumed` on."""

    id: str
    name: str
    version: int
    created_at: int | None = None
    shipped: bool = False
    kind: str | None = None
    model: str | None = None
    source: str | None = None
    dialect: str | None = None
    acceptance_length: float | None = None
    best_acceptance_length: float | None = None
    best_reading: dict[str, str] | None = None
    size_bytes: int | None = None
    job_id: str | None = None
    assumed: tuple[str, ...] = ()
    overrides: dict[str, str] = Field(default_factory=dict)
    check: DraftCheck | None = None
    packs: tuple[str, ...] = ()
    trained_on: str | None = None
    metrics: dict[str, float] = Field(default_factory=dict)


class Acceptance(Answer):
    """Acceptance at one temperature."""

    draft: str
    temperature: float
    acceptance_length: float
    acceptance_rate: float
    acceptance_by_position: tuple[float, ...] = ()


class Speed(Answer):
    """Speed of one way to decode at one temperature."""

    mode: str
    temperature: float
    tokens_per_s: float
    speedup_over_autoregressive: float


class Measured(Answer):
    """The result of a measurement."""

    num_prompts: int
    acceptance: tuple[Acceptance, ...] = ()
    speed: tuple[Speed, ...] = ()
    coverage: float | None = None
    base_acceptance: tuple[Acceptance, ...] = ()
    advice: str = ""
    check: DraftCheck | None = None


class Measurement(Job):
    """A measurement: its job, and `measurement` once it has succeeded."""

    draft: str
    pack: str | None = None
    measurement: Measured | None = None
