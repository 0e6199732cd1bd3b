"""The one error that reading a draft's files raises of its own."""

from __future__ import annotations

from eda_service.errors import DraftIncompatibleError

PARAM = "source"


def refusal(message: str) -> DraftIncompatibleError:
    """An error about the draft's files.

    Args:
        message: What was found where, what was expected, what to do next.
    """
    return DraftIncompatibleError(message, param=PARAM)
