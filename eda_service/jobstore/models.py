"""Tables. A job's config is stored whole, as JSON: it is immutable and never queried by parts."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Root of the tables."""


class JobRow(Base):
    """One adaptation job."""

    __tablename__ = "jobs"

    seq: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    status: Mapped[str] = mapped_column(String(16))
    origin: Mapped[str] = mapped_column(String(8))
    stage: Mapped[str | None] = mapped_column(String(16), default=None)
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), default=None)
    config: Mapped[dict[str, Any]] = mapped_column(JSON)
    content_sha256: Mapped[str] = mapped_column(String(64))
    labels: Mapped[dict[str, str]] = mapped_column(JSON)
    priority: Mapped[int] = mapped_column(Integer)
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    max_attempts: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[int] = mapped_column(Integer)
    started_at: Mapped[int | None] = mapped_column(Integer, default=None)
    finished_at: Mapped[int | None] = mapped_column(Integer, default=None)
    not_before: Mapped[int] = mapped_column(Integer, default=0)
    submitted_at: Mapped[int | None] = mapped_column(Integer, default=None)
    events_read: Mapped[int] = mapped_column(Integer, default=0)
    result_pack: Mapped[str | None] = mapped_column(String(256), default=None)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), default=None)

    __table_args__ = (
        Index("ix_jobs_queue", "status", "priority", "seq"),
        Index("ix_jobs_content", "content_sha256", "status"),
    )


class EventRow(Base):
    """One event; its id orders all events of all jobs."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    at: Mapped[int] = mapped_column(Integer)
    level: Mapped[str] = mapped_column(String(16))
    type: Mapped[str] = mapped_column(String(64))
    message: Mapped[str] = mapped_column(Text)
    stage: Mapped[str | None] = mapped_column(String(16), default=None)


class IdempotencyRow(Base):
    """A caller's `Idempotency-Key` and the job it made."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    request_sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[int] = mapped_column(Integer)


class DeploymentRow(Base):
    """What Serve must offer."""

    __tablename__ = "deployments"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    target: Mapped[dict[str, Any]] = mapped_column(JSON)
    base_draft: Mapped[str] = mapped_column(String(128))
    pack: Mapped[str] = mapped_column(String(256))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    updated_at: Mapped[int] = mapped_column(Integer)
