"""How the loading of a deployment goes: its failures, and when it is tried again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_SECONDS = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the table; what is deployed has not failed."""
    op.create_table(
        "deployment_loads",
        sa.Column("name", sa.String(128), sa.ForeignKey("deployments.name"), primary_key=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("num_failures", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("failed_at", _SECONDS),
        sa.Column("retry_at", _SECONDS),
        sa.Column("serves", sa.JSON()),
    )


def downgrade() -> None:
    """Drop it again."""
    op.drop_table("deployment_loads")
