"""Deployments that have owners, replicas and a history, with or without pack and draft; pinned champions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_SECONDS = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_SERVED = "target, base_draft, pack, pack_ref, min_replicas, max_replicas, job_id"


def upgrade() -> None:
    """Build the tables; what is deployed stays deployed, as revision 1 of its job's owner."""
    # SQLite cannot let a column be null afterwards: a new table takes the old one's rows and its name.
    op.create_table(
        "deployments_by_owner",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False),
        *_served_columns(),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_at", _SECONDS, nullable=False),
        sa.Column("updated_at", _SECONDS, nullable=False),
    )
    op.execute(
        f"INSERT INTO deployments_by_owner (name, owner, {_SERVED}, labels, revision, created_at, updated_at) "
        "SELECT old.name, jobs.owner, old.target, old.base_draft, old.pack, NULL, 1, 1, old.job_id, "
        "'{}', 1, old.updated_at, old.updated_at FROM deployments AS old JOIN jobs ON jobs.id = old.job_id"
    )
    op.drop_table("deployments")
    op.rename_table("deployments_by_owner", "deployments")
    op.create_index("ix_deployments_owner", "deployments", ["owner"])
    _revisions()
    op.create_table(
        "champions",
        sa.Column("owner", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("pinned_at", _SECONDS, nullable=False),
    )


def downgrade() -> None:
    """There is no way back without losing deployments that no job made: restore a backup.

    Raises:
        NotImplementedError: Always.
    """
    raise NotImplementedError("revision 0004 cannot be undone; restore a backup made before it")


def _revisions() -> None:
    op.create_table(
        "deployment_revisions",
        sa.Column("name", sa.String(128), sa.ForeignKey("deployments.name"), primary_key=True),
        sa.Column("revision", sa.Integer(), primary_key=True),
        *_served_columns(),
        sa.Column("made_by", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", _SECONDS, nullable=False),
    )
    op.execute(
        f"INSERT INTO deployment_revisions (name, revision, {_SERVED}, made_by, reason, created_at) "
        f"SELECT name, 1, {_SERVED}, job_id, 'deployed before there were revisions', updated_at FROM deployments"
    )


def _served_columns() -> list[sa.Column[object]]:
    return [
        sa.Column("target", sa.JSON(), nullable=False),
        sa.Column("base_draft", sa.String(128)),
        sa.Column("pack", sa.String(256)),
        sa.Column("pack_ref", sa.String(256)),
        sa.Column("min_replicas", sa.Integer(), nullable=False),
        sa.Column("max_replicas", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id")),
    ]
