"""The engine that decodes a deployment."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add it; what is deployed is decoded by the project's own, which an empty object stands for."""
    op.add_column("deployments", sa.Column("engine", sa.JSON(), nullable=False, server_default="{}"))


def downgrade() -> None:
    """Drop it again."""
    op.drop_column("deployments", "engine")
