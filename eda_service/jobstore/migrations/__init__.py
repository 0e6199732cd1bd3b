"""Package of Alembic: `env.py` runs the revisions in `versions` on the connection of `jobstore.schema`."""
