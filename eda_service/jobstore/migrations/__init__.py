"""Alembic's home: `env.py` runs the revisions in `versions` on the connection that `jobstore.schema` gives it."""
