"""Owners, leases, deadlines, webhooks, API keys; on PostgreSQL, times that outlive 2038."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_SECONDS = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIMES = {
    "jobs": ("created_at", "started_at", "finished_at", "not_before", "submitted_at"),
    "events": ("at",),
    "deployments": ("updated_at",),
}


def upgrade() -> None:
    """Add what several owners and several dispatchers need."""
    if op.get_bind().dialect.name == "postgresql":
        for table, columns in _TIMES.items():
            for column in columns:
                op.alter_column(table, column, type_=sa.BigInteger(), existing_type=sa.Integer())
    _jobs()
    _idempotency_keys()
    _api_keys()
    _webhook_outbox()


def downgrade() -> None:
    """There is no way back without losing keys and undelivered webhooks: restore a backup.

    Raises:
        NotImplementedError: Always.
    """
    raise NotImplementedError("revision 0002 cannot be undone; restore a backup made before it")


def _jobs() -> None:
    for column in (
        sa.Column("owner", sa.String(64), nullable=False, server_default="local"),
        sa.Column("lease_holder", sa.String(64)),
        sa.Column("lease_token", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("lease_until", _SECONDS, nullable=False, server_default="0"),
        sa.Column("ray_session", sa.String(128)),
        sa.Column("stage_deadlines", sa.JSON(), nullable=False, server_default="{}"),
        sa.Column("webhook", sa.JSON()),
    ):
        op.add_column("jobs", column)
    op.drop_index("ix_jobs_content", "jobs")
    op.create_index("ix_jobs_content", "jobs", ["owner", "content_sha256", "status"])
    op.create_index("ix_jobs_owner", "jobs", ["owner", "seq"])
    op.create_index("ix_jobs_owner_status", "jobs", ["owner", "status"])


def _idempotency_keys() -> None:
    # SQLite cannot change a primary key: a new table takes the old one's rows and its name.
    op.create_table(
        "idempotency_keys_by_owner",
        sa.Column("owner", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("request_sha256", sa.String(64), nullable=False),
        sa.Column("created_at", _SECONDS, nullable=False),
    )
    op.execute(
        "INSERT INTO idempotency_keys_by_owner (owner, key, job_id, request_sha256, created_at) "
        "SELECT 'local', key, job_id, request_sha256, created_at FROM idempotency_keys"
    )
    op.drop_table("idempotency_keys")
    op.rename_table("idempotency_keys_by_owner", "idempotency_keys")


def _api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("secret_sha256", sa.String(64), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", _SECONDS, nullable=False),
        sa.Column("expires_at", _SECONDS),
        sa.Column("revoked_at", _SECONDS),
        sa.Column("last_used_at", _SECONDS),
    )
    op.create_index("ix_api_keys_owner", "api_keys", ["owner"])


def _webhook_outbox() -> None:
    op.create_table(
        "webhook_outbox",
        sa.Column("id", sa.Integer(), autoincrement=True, primary_key=True),
        sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("event_id", sa.Integer(), sa.ForeignKey("events.id"), nullable=False, unique=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text()),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", _SECONDS, nullable=False),
        sa.Column("delivered_at", _SECONDS),
        sa.Column("gave_up_at", _SECONDS),
        sa.Column("last_error", sa.Text()),
    )
    op.create_index("ix_webhook_outbox_job_id", "webhook_outbox", ["job_id"])
    op.create_index("ix_webhook_outbox_due", "webhook_outbox", ["delivered_at", "gave_up_at", "not_before"])
