"""Why a row of a prompt file is skipped."""

from __future__ import annotations


class RowError(ValueError):
    """Why a row holds no prompt; the message never repeats what it says, only its keys, roles and types."""
