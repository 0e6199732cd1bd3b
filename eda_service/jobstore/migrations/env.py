"""Alembic's entry point. The caller that gave the connection owns the transaction."""

from __future__ import annotations

from alembic import context

from eda_service.jobstore.models import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
context.run_migrations()
