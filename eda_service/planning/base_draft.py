"""The config of a job's base draft, which holds its kind and its sizes. Imports no torch, so that the API can import
it.
"""

from __future__ import annotations

from pathlib import Path

from eda_service.drafts.draft_config import DraftConfig, parse_draft_config
from eda_service.errors import ArtifactCorruptError, BaseDraftMissingError
from eda_service.storage.inputs import bounded_json
from eda_service.storage.published.registry import find_draft_file


def draft_config(reference: str, home: Path | None = None) -> DraftConfig:
    """Read the config of a base draft; its weights are not fetched.

    Raises:
        BaseDraftMissingError: The draft does not exist, or its config cannot be read.
    """
    try:
        return parse_draft_config(bounded_json.read_object(find_draft_file(reference, "config.json", home)))
    except (ArtifactCorruptError, ValueError, OSError) as error:
        raise BaseDraftMissingError(
            f"base draft {reference} cannot be read; register it again", param="base_draft"
        ) from error
