"""The round time that a deployment's replicas scale by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_TABLES = ("deployments", "deployment_revisions")


def upgrade() -> None:
    """Add it; nobody has asked for it yet."""
    for table in _TABLES:
        op.add_column(table, sa.Column("round_ms", sa.Integer()))


def downgrade() -> None:
    """Drop it again."""
    for table in _TABLES:
        op.drop_column(table, "round_ms")
