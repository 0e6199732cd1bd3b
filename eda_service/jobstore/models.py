"""The tables. A job's config is stored whole, as JSON: it is immutable and never queried by parts.

The schema changes by a revision under `migrations/versions`; a test compares the revisions' result with these classes.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Float, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SECONDS = BigInteger().with_variant(Integer(), "sqlite")  # seconds since the epoch; 32 bits end in 2038
BYTES = SECONDS


class Base(DeclarativeBase):
    """Root of the tables."""


class JobRow(Base):
    """One job, of any kind."""

    __tablename__ = "jobs"

    seq: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    kind: Mapped[str] = mapped_column(String(16), default="adapt", server_default="adapt")
    status: Mapped[str] = mapped_column(String(16))
    origin: Mapped[str] = mapped_column(String(8))
    owner: Mapped[str] = mapped_column(String(64), default="local", server_default="local")
    stage: Mapped[str | None] = mapped_column(String(16), default=None)
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), default=None)
    config: Mapped[dict[str, Any]] = mapped_column(JSON)
    content_sha256: Mapped[str] = mapped_column(String(64))
    labels: Mapped[dict[str, str]] = mapped_column(JSON)
    priority: Mapped[int] = mapped_column(Integer)
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    max_attempts: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[int] = mapped_column(SECONDS)
    started_at: Mapped[int | None] = mapped_column(SECONDS, default=None)
    finished_at: Mapped[int | None] = mapped_column(SECONDS, default=None)
    not_before: Mapped[int] = mapped_column(SECONDS, default=0)
    submitted_at: Mapped[int | None] = mapped_column(SECONDS, default=None)
    events_read: Mapped[int] = mapped_column(Integer, default=0)
    result_pack: Mapped[str | None] = mapped_column(String(256), default=None)
    result: Mapped[str | None] = mapped_column(String(256), default=None)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), default=None)
    lease_holder: Mapped[str | None] = mapped_column(String(64), default=None)
    lease_token: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    lease_until: Mapped[int] = mapped_column(SECONDS, default=0, server_default="0")
    ray_session: Mapped[str | None] = mapped_column(String(128), default=None)
    stage_deadlines: Mapped[dict[str, float]] = mapped_column(JSON, default=dict, server_default="{}")
    webhook: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), default=None)
    cpus: Mapped[float] = mapped_column(Float, default=0.0, server_default="0")
    gpus: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    node_cpus: Mapped[float] = mapped_column(Float, default=0.0, server_default="0")
    node_gpus: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    waits_for: Mapped[str | None] = mapped_column(Text, default=None)

    __table_args__ = (
        Index("ix_jobs_queue", "status", "priority", "seq"),
        Index("ix_jobs_content", "owner", "content_sha256", "status"),
        Index("ix_jobs_owner", "owner", "seq"),
        Index("ix_jobs_owner_status", "owner", "status", "seq"),
        Index("ix_jobs_status", "status", "seq"),
        Index("ix_jobs_kind", "kind", "seq"),
    )

    @property
    def webhook_url(self) -> str | None:
        """The URL of the job's webhook; the secret stays in the row."""
        return None if self.webhook is None else str(self.webhook["url"])


class EventRow(Base):
    """One event; its id orders all events of one job, also by the time at which they became visible."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    at: Mapped[int] = mapped_column(SECONDS)
    level: Mapped[str] = mapped_column(String(16))
    type: Mapped[str] = mapped_column(String(64))
    message: Mapped[str] = mapped_column(Text)
    stage: Mapped[str | None] = mapped_column(String(16), default=None)


class IdempotencyRow(Base):
    """An owner's `Idempotency-Key` and the job it made."""

    __tablename__ = "idempotency_keys"

    owner: Mapped[str] = mapped_column(String(64), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    request_sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[int] = mapped_column(SECONDS, index=True)


class DeploymentRow(Base):
    """A deployment that Serve must offer; `revision` counts its changes."""

    __tablename__ = "deployments"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    uid: Mapped[str] = mapped_column(String(32), server_default="none")
    owner: Mapped[str] = mapped_column(String(64), index=True)
    target: Mapped[dict[str, Any]] = mapped_column(JSON)
    base_draft: Mapped[str | None] = mapped_column(String(128))
    pack: Mapped[str | None] = mapped_column(String(256))
    pack_ref: Mapped[str | None] = mapped_column(String(256))
    min_replicas: Mapped[int] = mapped_column(Integer)
    max_replicas: Mapped[int] = mapped_column(Integer)
    round_ms: Mapped[int | None] = mapped_column(Integer)
    engine: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict, server_default="{}")
    labels: Mapped[dict[str, str]] = mapped_column(JSON)
    drift: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict, server_default="{}")
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    revision: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[int] = mapped_column(SECONDS)
    updated_at: Mapped[int] = mapped_column(SECONDS)


class RevisionRow(Base):
    """A deployment as one change left it, with the author and the reason. Deleted with the deployment."""

    __tablename__ = "deployment_revisions"

    name: Mapped[str] = mapped_column(ForeignKey("deployments.name"), primary_key=True)
    revision: Mapped[int] = mapped_column(Integer, primary_key=True)
    target: Mapped[dict[str, Any]] = mapped_column(JSON)
    base_draft: Mapped[str | None] = mapped_column(String(128))
    pack: Mapped[str | None] = mapped_column(String(256))
    pack_ref: Mapped[str | None] = mapped_column(String(256))
    min_replicas: Mapped[int] = mapped_column(Integer)
    max_replicas: Mapped[int] = mapped_column(Integer)
    round_ms: Mapped[int | None] = mapped_column(Integer)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    made_by: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str] = mapped_column(Text)
    created_at: Mapped[int] = mapped_column(SECONDS)


class DriftRow(Base):
    """The drift of a deployment's acceptance, and the reaction to it. Deleted with the deployment."""

    __tablename__ = "deployment_drift"

    name: Mapped[str] = mapped_column(ForeignKey("deployments.name"), primary_key=True)
    pack: Mapped[str] = mapped_column(String(256))
    is_below: Mapped[bool] = mapped_column(Boolean)
    crossed_at: Mapped[int] = mapped_column(SECONDS)
    adapted_at: Mapped[int | None] = mapped_column(SECONDS, default=None)
    is_handled: Mapped[bool] = mapped_column(Boolean, default=False)


class LoadRow(Base):
    """The state of loading a deployment; there is no row before its first failure. Deleted with the deployment."""

    __tablename__ = "deployment_loads"

    name: Mapped[str] = mapped_column(ForeignKey("deployments.name"), primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    num_failures: Mapped[int] = mapped_column(Integer, default=0)
    reason: Mapped[str | None] = mapped_column(Text, default=None)
    failed_at: Mapped[int | None] = mapped_column(SECONDS, default=None)
    retry_at: Mapped[int | None] = mapped_column(SECONDS, default=None)
    serves: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), default=None)


class DeploymentEventRow(Base):
    """An event of a deployment. Deleted with the deployment."""

    __tablename__ = "deployment_events"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(ForeignKey("deployments.name"), index=True)
    at: Mapped[int] = mapped_column(SECONDS)
    level: Mapped[str] = mapped_column(String(16))
    type: Mapped[str] = mapped_column(String(64))
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]] = mapped_column(JSON)


class ChampionRow(Base):
    """The version that an owner's `name@champion` means, whatever the measurements."""

    __tablename__ = "champions"

    owner: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    version: Mapped[int] = mapped_column(Integer)
    pinned_at: Mapped[int] = mapped_column(SECONDS)


class FileRow(Base):
    """An uploaded prompt file; its bytes are under the home."""

    __tablename__ = "files"

    seq: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    owner: Mapped[str] = mapped_column(String(64))
    filename: Mapped[str] = mapped_column(String(255))
    purpose: Mapped[str] = mapped_column(String(32))
    size_bytes: Mapped[int] = mapped_column(BYTES)
    sha256: Mapped[str] = mapped_column(String(64))
    num_prompts: Mapped[int] = mapped_column(Integer)
    num_skipped: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[int] = mapped_column(SECONDS)

    __table_args__ = (Index("ix_files_owner", "owner", "seq"), Index("ix_files_content", "owner", "sha256"))


class KeyRow(Base):
    """An API key; only the hash of its secret is stored."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64), index=True)
    name: Mapped[str] = mapped_column(String(128))
    secret_sha256: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[int] = mapped_column(SECONDS)
    requests_per_minute: Mapped[int | None] = mapped_column(Integer, default=None)
    concurrent_requests: Mapped[int | None] = mapped_column(Integer, default=None)
    expires_at: Mapped[int | None] = mapped_column(SECONDS, default=None)
    revoked_at: Mapped[int | None] = mapped_column(SECONDS, default=None)
    last_used_at: Mapped[int | None] = mapped_column(SECONDS, default=None)


class OutboxRow(Base):
    """A webhook to be sent: written with the transition it reports, and kept as the record of its delivery."""

    __tablename__ = "webhook_outbox"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    event_id: Mapped[int] = mapped_column(ForeignKey("events.id"), unique=True)
    url: Mapped[str] = mapped_column(Text)
    secret: Mapped[str | None] = mapped_column(Text, default=None)
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    not_before: Mapped[int] = mapped_column(SECONDS, default=0)
    delivered_at: Mapped[int | None] = mapped_column(SECONDS, default=None)
    gave_up_at: Mapped[int | None] = mapped_column(SECONDS, default=None)
    last_error: Mapped[str | None] = mapped_column(Text, default=None)

    __table_args__ = (Index("ix_webhook_outbox_due", "delivered_at", "gave_up_at", "not_before"),)
