"""The kind of a job, and the result of a job that publishes no pack."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add them; every job that is there is an adaptation."""
    op.add_column("jobs", sa.Column("kind", sa.String(16), nullable=False, server_default="adapt"))
    op.add_column("jobs", sa.Column("result", sa.String(256)))
    op.create_index("ix_jobs_kind", "jobs", ["kind", "seq"])


def downgrade() -> None:
    """Drop them again."""
    op.drop_index("ix_jobs_kind", "jobs")
    for name in ("result", "kind"):
        op.drop_column("jobs", name)
