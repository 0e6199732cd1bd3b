"""Events and drift of deployments; limits of API keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_SECONDS = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add them; deployments watch with the defaults, keys have the service's limits."""
    op.add_column("deployments", sa.Column("drift", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("api_keys", sa.Column("requests_per_minute", sa.Integer()))
    op.add_column("api_keys", sa.Column("concurrent_requests", sa.Integer()))
    op.create_table(
        "deployment_drift",
        sa.Column("name", sa.String(128), sa.ForeignKey("deployments.name"), primary_key=True),
        sa.Column("pack", sa.String(256), nullable=False),
        sa.Column("is_below", sa.Boolean(), nullable=False),
        sa.Column("crossed_at", _SECONDS, nullable=False),
        sa.Column("adapted_at", _SECONDS),
        sa.Column("is_handled", sa.Boolean(), nullable=False),
    )
    op.create_table(
        "deployment_events",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("name", sa.String(128), sa.ForeignKey("deployments.name"), nullable=False),
        sa.Column("at", _SECONDS, nullable=False),
        sa.Column("level", sa.String(16), nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
    )
    op.create_index("ix_deployment_events_name", "deployment_events", ["name"])


def downgrade() -> None:
    """Drop them again."""
    op.drop_table("deployment_events")
    op.drop_table("deployment_drift")
    for column in ("requests_per_minute", "concurrent_requests"):
        op.drop_column("api_keys", column)
    op.drop_column("deployments", "drift")
