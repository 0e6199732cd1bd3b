"""The error of a row of a prompt file that is skipped."""

from __future__ import annotations


class RowError(ValueError):
    """A row holds no prompt; the message never repeats the row's text, only its keys, roles and types."""
