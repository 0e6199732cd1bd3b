"""Alembic's entry point. The transaction belongs to whoever gave the connection."""

from __future__ import annotations

from alembic import context

from eda_service.jobstore.models import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
context.run_migrations()
