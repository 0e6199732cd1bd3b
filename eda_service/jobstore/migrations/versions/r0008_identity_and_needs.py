"""An id of its own for each deployment, and what a job asks the cluster for at a time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from eda_service.ids import new_deployment_uid

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add them; what is deployed gets its id now, and jobs that are there count as ones that fit every cluster."""
    op.add_column("jobs", sa.Column("cpus", sa.Float(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("gpus", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("deployments", sa.Column("uid", sa.String(32), nullable=False, server_default="none"))
    deployments = sa.table("deployments", sa.column("name", sa.String()), sa.column("uid", sa.String()))
    connection = op.get_bind()
    for name in connection.scalars(sa.select(deployments.c.name)).all():
        connection.execute(deployments.update().where(deployments.c.name == name).values(uid=new_deployment_uid()))


def downgrade() -> None:
    """Drop them again."""
    op.drop_column("deployments", "uid")
    for name in ("gpus", "cpus"):
        op.drop_column("jobs", name)
