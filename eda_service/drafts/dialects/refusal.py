"""The error that reading a draft's files raises."""

from __future__ import annotations

from eda_service.errors import DraftIncompatibleError

PARAM = "source"


def refusal(message: str) -> DraftIncompatibleError:
    """Make an error about the draft's files.

    Args:
        message: The finding and its place, the expected value and the next step.
    """
    return DraftIncompatibleError(message, param=PARAM)
