"""The capacity that a job needs of one node, and the reason why it does not start if no node has as much."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add them; the jobs that are there count as ones that fit every node."""
    op.add_column("jobs", sa.Column("node_cpus", sa.Float(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("node_gpus", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("waits_for", sa.Text()))


def downgrade() -> None:
    """Drop them again."""
    for name in ("waits_for", "node_gpus", "node_cpus"):
        op.drop_column("jobs", name)
