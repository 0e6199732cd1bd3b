"""The draft of this version; `eagle1` has it."""

from eda_service.drafts.eagle1 import Draft

__all__ = ["Draft"]
