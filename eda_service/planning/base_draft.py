"""The shape of a job's base draft, which tells its kind and its sizes. Imports no torch, for the API's sake."""

from __future__ import annotations

from pathlib import Path

from eda_service.drafts.draft_config import DraftConfig, parse_draft_config
from eda_service.errors import ArtifactCorruptError, BaseDraftMissingError
from eda_service.storage.inputs import bounded_json
from eda_service.storage.published.registry import find_draft_file


def draft_config(reference: str, home: Path | None = None) -> DraftConfig:
    """The shape of a base draft, whose weights are not fetched for it.

    Raises:
        BaseDraftMissingError: There is no such draft, or its file cannot be read.
    """
    try:
        return parse_draft_config(bounded_json.read_object(find_draft_file(reference, "config.json", home)))
    except (ArtifactCorruptError, ValueError, OSError) as error:
        raise BaseDraftMissingError(
            f"base draft {reference} cannot be read; register it again", param="base_draft"
        ) from error
