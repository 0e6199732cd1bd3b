"""Prompt files that were uploaded: whose they are, what they are called, and the hash of their bytes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

_LARGE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the table; nothing was uploaded before."""
    op.create_table(
        "files",
        sa.Column("seq", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("size_bytes", _LARGE, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("num_prompts", sa.Integer(), nullable=False),
        sa.Column("num_skipped", sa.Integer(), nullable=False),
        sa.Column("created_at", _LARGE, nullable=False),
    )
    op.create_index("ix_files_owner", "files", ["owner", "seq"])
    op.create_index("ix_files_content", "files", ["owner", "sha256"])


def downgrade() -> None:
    """Drop it again; the bytes stay under the home."""
    op.drop_table("files")
