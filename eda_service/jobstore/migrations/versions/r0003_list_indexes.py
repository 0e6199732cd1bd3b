"""Indexes along which lists run newest first by status, and old idempotency keys are found."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Without them a list of queued jobs sorts all that are queued."""
    op.create_index("ix_jobs_status", "jobs", ["status", "seq"])
    op.drop_index("ix_jobs_owner_status", "jobs")
    op.create_index("ix_jobs_owner_status", "jobs", ["owner", "status", "seq"])
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])


def downgrade() -> None:
    """The indexes of revision 0002."""
    op.drop_index("ix_idempotency_keys_created_at", "idempotency_keys")
    op.drop_index("ix_jobs_owner_status", "jobs")
    op.create_index("ix_jobs_owner_status", "jobs", ["owner", "status"])
    op.drop_index("ix_jobs_status", "jobs")
