"""The place of the endpoint in versions before; `app` is kept for what names it."""
