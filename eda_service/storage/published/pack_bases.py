"""The base draft of each pack. A published manifest never changes, so a process reads each only once; after that the
registry is asked only for the list of names and versions.
"""

from __future__ import annotations

from pathlib import Path

from eda_service.errors import ArtifactCorruptError, NotFoundError
from eda_service.references import Reference
from eda_service.storage.published import registry


class PackBases:
    """Base drafts of the published packs.

    Args:
        home: Root of the registry.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._bases: dict[tuple[str, int], str] = {}

    def over(self, base_draft: str) -> list[Reference]:
        """List the packs over a base draft (name@version), by name and version. A pack whose manifest cannot be read is
        left out, and read again the next time.
        """
        return [Reference(*each) for each in registry.all_packs(self._home) if self._base_of(each) == base_draft]

    def _base_of(self, pack: tuple[str, int]) -> str | None:
        known = self._bases.get(pack)
        if known is not None:
            return known
        try:
            base = registry.find_pack_manifest(Reference(*pack), self._home).base_draft
        except (ArtifactCorruptError, NotFoundError):
            return None
        self._bases[pack] = base
        return base
