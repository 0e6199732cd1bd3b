"""The class of each kind of draft."""

from __future__ import annotations

from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import DraftConfig
from eda_service.drafts.eagle1 import Eagle1Draft
from eda_service.drafts.eagle3 import Eagle3Draft

DRAFTS: dict[str, type[Draft]] = {"eagle1": Eagle1Draft, "eagle3": Eagle3Draft}


def make_draft(config: DraftConfig) -> Draft:
    """Make a base draft of this config with fresh weights."""
    return DRAFTS[config.kind](config)
